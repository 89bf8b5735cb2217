"""Flow `predict`: tag the images of a source with the champion; every image gets one row, readable or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows.labeling.labeled_images import LabeledImages
from flows.labeling.review import DEFAULT_NEAR_DUPLICATE_BITS, TABLE_FILE, check_review, write_review
from flows.labeling.tagging import TAGGED, check_tagging, tag_images
from flows.monitor import retrain_if_needed
from flows.monitoring.drift_check import MonitorResult, check_batch
from flows.notifications import console
from flows.orchestration import artifacts, concurrency
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.prediction import imagenet
from flows.prediction.options import PredictOptions
from flows.prediction.predictor import Predictor, open_validation_split
from flows.prediction.table_writer import check_prediction, predict_table
from flows.project.exceptions import NoChampion
from flows.project.paths import PARAMS, RAW
from flows.project.project import Project
from flows.promotion import alias_updates, model_registry
from flows.promotion.class_overlap import describe_changed_classes
from flows.promotion.model_registry import Version
from flows.versioning import restoration
from flows.versioning.forgotten_list import read_forgotten
from imageset.exceptions import UserError
from imageset.sources.base import format_passed_over
from imageset.utils.file_lock import output_lock, read_holder
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from flows.prediction.cache import PredictionCache
    from flows.prediction.image_stream import ImageStream
    from flows.prediction.table_writer import PredictionCounts
    from imageset.executors.dask_cluster import DaskExecutor
    from imageset.utils.progress import Progress
    from lightning_modules.bundle import Bundle
    from lightning_modules.scoring import Engine


logger = console.get_logger(__name__)

PREDICTION_CACHE, ENGINE_CACHE = "predictions", "engines"  # in the folder of the caches
AGREEMENT_PREFIX = "agrees with fp32"  # begins the note on a faster precision that was compared with fp32


@dataclass(frozen=True)
class PredictResult:
    """The table that was written, the model version behind it, and its counts.

    Attributes:
        monitor_result: the batch compared with the model's training data; None where it was not compared.
        passed_over: number of files of the source that are not images, by cause.
    """

    out: Path
    version: Version
    num_rows: int
    num_errors: int
    num_abstained: int = 0
    monitor_result: MonitorResult | None = None
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = format_count(self.num_rows, "row")
        passed_over = format_passed_over(self.passed_over)
        return f"{self.out}: {rows} by {self.version}, {self.num_errors:,} of them errors{passed_over}"

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON.

        out: path of the table; num_rows, num_errors, num_abstained: numbers of its rows.
        model, version, run_id: which model predicted.
        passed_over: number of files of the source that are no pictures, by cause.
        drift: the comparison with the model's training data {state, num_pictures, moved}; null without one.
        """
        batch = self.monitor_result.batch if self.monitor_result is not None else None
        moved = [check["name"] for check in batch["checks"] if check["moved"]] if batch is not None else []
        return {
            "out": str(self.out),
            **{name: getattr(self, name) for name in ("num_rows", "num_errors", "num_abstained")},
            "passed_over": dict(self.passed_over),
            **{"model": self.version.name, "version": self.version.number, "run_id": self.version.run_id},
            "drift": batch and {"state": batch["state"], "num_pictures": batch["num_pictures"], "moved": moved},
        }


@flow(**FLOW_OPTIONS)
@conclude_run
def predict(
    source: str | list[str],
    out: str,
    model: str | None = None,
    new_only: bool = False,
    engine: str | None = None,
    precision: str | None = None,
    review: int | None = None,
    tag: str | None = None,
    in_place: bool = False,
    executor: str | None = None,
    review_for: str | None = None,
) -> PredictResult:
    """Write one row for each image of `source` into the table `out`.

    Images that this model version has predicted before are taken from the cache, and a run that was killed resumes
    where it stopped. The table is the same, byte for byte, as if neither had happened.

    Args:
        source: everything that ingest takes: a folder, an archive, a table ...; also image files: one, a pattern
            such as inbox/*.png, or a list. It is only read.
        out: Parquet, CSV or JSON lines by its ending; written completely or not at all; its folder must exist.
        model: registered name; None for the model named like the dataset in data/normalized; "imagenet", if no
            model of that name serves, for the installed network with ImageNet's classes.
        new_only: only images that are in no table which this model version wrote before.
        engine: engine that runs the network; None for the one in params.yaml. See
            lightning_modules.inference.engine_selection.
        precision: precision of that engine; None for the one in params.yaml.
        review: also write this many images, those most worth a person's label, into the folder OUT.review.
        tag: "xmp" or "sidecar": also write the labels into copies of the images, or beside them, in OUT.tagged.
        in_place: tag the images of the source themselves.
        executor: dask://HOST:PORT of a scheduler whose workers decode and run the network.
        review_for: "label-studio", "cvat" or "fiftyone": also write these images as a document that this tool
            imports, into the same folder.

    Raises:
        UserError: the source does not exist or holds no images, `out` cannot be written, or no version is
            champion.
    """
    options = PredictOptions(
        source, Path(out), model, new_only, engine, precision, review, tag, in_place, executor, review_for
    )
    project = Project.find()
    check_prediction(source, out)
    version = find_model(model or read_model_name(project), project)
    params = options.override_params(project.load_params("predict"))
    project.load_params("monitor")  # report errors in that section before the work, not after it
    with concurrency.acquire_limits(*concurrency.name_gpu_limits()[:1]):
        result = predict_source(options, version, project, params)
    if result.monitor_result is not None:
        retrain_if_needed(result.monitor_result, project)
    return result


def predict_without_project(options: PredictOptions) -> PredictResult:
    """Predict with the model `imagenet` in a folder that is no project: without Prefect, MLflow and params.yaml.

    Raises:
        UserError: the source does not exist or holds no images, or the table cannot be written.
    """
    check_prediction(options.source, str(options.out))
    params = options.override_params(imagenet.load_default_params())
    result: PredictResult = predict_source.fn(options, imagenet.make_imagenet_version(), None, params)
    return result


def read_model_name(project: Project) -> str:
    """Return the name of the project's dataset, which is also the name of its model.

    Raises:
        UserError: there is no dataset, so nothing was trained; the message names the model that needs no training.
    """
    try:
        return project.read_dataset_name()
    except UserError as error:
        raise UserError(f"{error}; {imagenet.IMAGENET_HINT}") from None


@task(**TASK_RETRY_OPTIONS)
def find_model(name: str, project: Project) -> Version:
    """Return the champion of the model `name`. Its number is pinned for the whole batch.

    A registered model that is called `imagenet` comes before the installed network.
    """
    client = restoration.open_registry(project)
    alias_updates.replay_if_needed(client, project, name)
    if name == imagenet.IMAGENET:
        return model_registry.find_champion_version(client, name) or imagenet.make_imagenet_version()
    try:
        return model_registry.require_champion(client, name)
    except NoChampion as error:
        raise NoChampion(f"{error}; {imagenet.IMAGENET_HINT}") from None


@task(name="answer")  # the name in Prefect's history
def predict_source(
    options: PredictOptions, version: Version, project: Project | None, params: Mapping[str, Any]
) -> PredictResult:
    """Open the source, predict its images, write the table and everything that the options ask for beside it.

    Args:
        options: what to predict, and what to write.
        version: a registered version, or the model `imagenet`.
        project: None: the current folder is no project.
        params: the section `predict` of params.yaml.
    """
    with ExitStack() as stack:
        for output in options.list_outputs():
            stack.enter_context(output_lock(output, lambda line: logger.info("predict: %s", line)))
        return _predict_source(options, version, project, params)


def _predict_source(
    options: PredictOptions, version: Version, project: Project | None, params: Mapping[str, Any]
) -> PredictResult:
    """Do the work of `predict_source`; the caller holds the locks of the outputs."""
    from flows.prediction.image_stream import describe_source, open_images

    images = open_images(options.source)
    check_extras(options, images)
    bundle = imagenet.load_version_bundle(version)
    if project is not None and imagenet.is_registered(version):
        warn_changed_classes(version, bundle, project)
    engine, choice = choose_engine(bundle, params, project)
    if project is not None and imagenet.is_registered(version):
        client = model_registry.connect_registry(project)
        tags = collect_precision_tags(version, choice)
        model_registry.set_version_tags(client, version.name, version.number, tags)
    replaced = "; the existing table is replaced" if options.out.exists() else ""
    passed_over = format_passed_over(images.passed_over)
    logger.info("predict: %s tags %s%s%s", version, format_count(len(images), "picture"), passed_over, replaced)
    with open_cluster(options.executor) as cluster, console.make_progress("predict", logger) as progress:
        predictor = Predictor(bundle, engine, version, params, choice["seen"], cluster=cluster)
        result, counts = predict_and_write(predictor, images, options, project, progress)
    if project is None or not imagenet.is_registered(version):  # no training data here to compare with
        return result
    if not project.load_params("monitor")["after_predict"]:
        return result
    cache_folder = imagenet.find_cache_folder(project) / PREDICTION_CACHE
    rows = predictor.open_cache(cache_folder).iter_rows(counts.shard_names)
    return replace(
        result, monitor_result=check_drift(describe_source(options.source), rows, images, bundle, version, project)
    )


def warn_changed_classes(version: Version, bundle: Bundle, project: Project) -> None:
    """Log a line if the model's classes are not those of the dataset any more."""
    line = describe_changed_classes(project, version.name, version.number, bundle.info.classes)
    if line:
        logger.warning("predict: %s; until then it predicts the classes that it knows", line)


def check_extras(options: PredictOptions, images: ImageStream) -> None:
    """Raise UserError if the images for review or the tags cannot be written."""
    check_tagging(options.tag, options.in_place, images)
    check_review(options.review, options.review_for, options.review_folder)


def check_drift(
    source: str,
    rows: Iterable[dict[str, Any]],
    images: ImageStream,
    bundle: Bundle,
    version: Version,
    project: Project,
) -> MonitorResult | None:
    """Compare the images with the model's training data. Log the reason and return None if that is impossible."""
    try:
        return check_batch(source, rows, images, bundle, version, project)
    except UserError as error:
        logger.warning("monitor: %s", error)
        return None


def predict_and_write(
    predictor: Predictor,
    images: ImageStream,
    options: PredictOptions,
    project: Project | None,
    progress: Progress,
) -> tuple[PredictResult, PredictionCounts]:
    """Write the table, its summary, and everything that the options ask for beside it."""
    out, version = options.out, predictor.version
    cache = predictor.open_cache(imagenet.find_cache_folder(project) / PREDICTION_CACHE)
    with cache.cache_lock(on_busy=partial(_log_waiting, cache)):
        progress.begin(len(images))
        counts = predict_table(images, predictor, cache, out, progress, new_only=options.new_only)
        progress.end()
        if predictor.num_cached:
            logger.info(
                "predict: %s of them were predicted before, taken from the cache", f"{predictor.num_cached:,}"
            )
        rows, errors = format_count(counts.num_rows, "row"), f"{counts.num_errors:,}"
        if counts.num_abstained:
            threshold = f"{predictor.abstain_below:g}"
            logger.info("predict: %s without a label: confidence below abstain_below %s",
                        format_count(counts.num_abstained, "row"), threshold)  # fmt: skip
        logger.info("predict: %s in %s, %s of them errors", rows, out, errors)
        if project is not None:
            publish_summary(out, counts, predictor, cache, images)
        if options.review:
            write_review_images(options, counts, predictor, cache, images, project)
        if options.tag:
            write_tags(options, counts, cache, images)
    return PredictResult(
        out, version, counts.num_rows, counts.num_errors, counts.num_abstained, passed_over=images.passed_over
    ), counts


@contextmanager
def open_cluster(executor: str | None) -> Iterator[DaskExecutor | None]:
    """Connect to the cluster that `executor` names.

    Yields:
        The cluster; None where no executor is named.

    Raises:
        UserError: the executor is not a cluster, or cannot be reached.
    """
    if executor is None:
        yield None
        return
    from imageset.executors.dask_cluster import DaskExecutor
    from imageset.executors.factory import check_executor_name

    if not check_executor_name(executor).startswith("dask://"):
        raise UserError(
            f"--executor {executor}: predict takes only dask://HOST:PORT; leave it out for this machine"
        )
    with DaskExecutor(executor.removeprefix("dask://")) as cluster:
        yield cluster


def publish_summary(
    out: Path, counts: PredictionCounts, predictor: Predictor, cache: PredictionCache, images: ImageStream
) -> None:
    """Publish the summary as an artifact of the flow run."""
    from flows.prediction.summary import render_prediction_markdown

    title = f"{out.name}: {predictor.version}"
    rows, bundle = cache.iter_rows(counts.shard_names), predictor.bundle
    page = render_prediction_markdown(
        title, counts, predictor.to_metadata(), rows, images, bundle.spec, bundle.info.multi_label
    )
    artifacts.publish_markdown(page, "predictions", title)


def write_review_images(
    options: PredictOptions,
    counts: PredictionCounts,
    predictor: Predictor,
    cache: PredictionCache,
    images: ImageStream,
    project: Project | None,
) -> None:
    """Write the images most worth a label into the review folder."""
    from imageset.normalize.params import read_normalize_params

    assert options.review is not None
    bits, labeled = DEFAULT_NEAR_DUPLICATE_BITS, LabeledImages()
    if project is not None:
        bits = read_normalize_params(project / PARAMS)["near_duplicate_bits"]
        labeled = LabeledImages.read(project / RAW, read_forgotten(project))
    folder = options.review_folder
    result = write_review(
        folder,
        images,
        lambda: cache.iter_rows(counts.shard_names),
        predictor.bundle,
        options.review,
        labeled,
        bits,
        options.review_for,
    )
    if not result.num_images:
        logger.warning("predict: nothing to review: every picture that can be read has a label in this project")
        return
    several = ", several of a picture separated by |" if cache.multi_label else ""
    pictures, notes = format_count(result.num_images, "picture"), result.describe(options.review)
    advice = f"fill in its column label{several}, then `convoy run {folder / TABLE_FILE}`"
    logger.info("predict: %s most worth a label in %s%s; %s", pictures, folder / TABLE_FILE, notes, advice)


def write_tags(
    options: PredictOptions, counts: PredictionCounts, cache: PredictionCache, images: ImageStream
) -> None:
    """Write the labels into the images, into copies of them, or beside them."""
    assert options.tag is not None
    rows = cache.iter_rows(counts.shard_names)
    outcomes = tag_images(images, rows, options.tag, options.tag_folder, cache.multi_label)
    tagged = format_count(outcomes.pop(TAGGED, 0), "picture")
    untagged = ", ".join(f"{num:,} {cause}" for cause, num in sorted(outcomes.items()))
    note = f"; not tagged: {untagged}" if untagged else ""
    logger.info("predict: %s tagged in %s%s", tagged, options.tag_folder or "place", note)


def choose_engine(
    bundle: Bundle, params: Mapping[str, Any], project: Project | None
) -> tuple[Engine, dict[str, Any]]:
    """Return the engine that the parameters ask for, and the notes on its selection; log both."""
    from lightning_modules.inference.engine_selection import AgreementLimits, select_engine

    limits = AgreementLimits(params["min_agreement"], params["max_accuracy_loss"])
    engine, choice = select_engine(
        bundle,
        params["engine"],
        params["precision"],
        None if project is None else open_validation_split(bundle, project),
        limits,
        imagenet.find_cache_folder(project) / ENGINE_CACHE,
        logger.warning,
    )
    rejections = [
        f"{name} ({reason})" for name, reason in choice["refused"].items() if params["precision"] == "auto"
    ]
    not_used = f"; not used: {', '.join(rejections)}" if rejections else ""
    logger.info("predict: %s in %s: %s%s", engine.name, engine.precision, choice["seen"], not_used)
    return engine, choice


def collect_precision_tags(version: Version, choice: Mapping[str, Any]) -> dict[str, str]:
    """Return tags on the faster precisions that were compared with fp32 on validation images, and on the results.

    Args:
        version: the version to tag; tags that it has already are left out.
        choice: the notes of `select_engine`.
    """
    notes = {f"{choice['engine']} {choice['precision']}": f"used: {choice['seen']}"}
    notes |= {
        name: f"not used: {reason}"
        for name, reason in choice["refused"].items()
        if reason.startswith(AGREEMENT_PREFIX)
    }
    tags = {}
    for name, note in notes.items():
        engine, precision = name.split()
        if precision != "fp32":
            tags[f"{model_registry.PRECISION_TAG_PREFIX}{precision}"] = f"{engine}, {note}"
    return {name: text for name, text in tags.items() if version.tags.get(name) != text}


def _log_waiting(cache: PredictionCache) -> None:
    holder = read_holder(cache.lock_path)
    logger.info("predict: %s predicts with this model; waiting until it ends (Ctrl-C gives up)", holder)
