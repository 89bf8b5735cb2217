"""Predict: the champion tags the pictures of a source, one row a picture, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows.labeling.review import write_review
from flows.labeling.tagging import TAGGED, check_tagging, tag_images
from flows.monitor import retrain_if_needed
from flows.monitoring.drift_check import MonitorResult, check_batch
from flows.notifications import console
from flows.orchestration import artifacts, concurrency
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.prediction.predictor import Predictor, open_validation_split
from flows.prediction.table_writer import check_prediction, predict_table
from flows.project.params import load_monitor_params, load_stage_params
from flows.project.paths import CACHE, find_project, read_dataset_name
from flows.promotion import alias_updates, model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
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

PREDICTION_CACHE = CACHE / "predictions"
ENGINE_CACHE = CACHE / "engines"
JUDGED_PREFIX = "agrees with fp32"  # how what is seen of a faster precision begins


@dataclass(frozen=True)
class PredictResult:
    """What was written where, by which model."""

    out: Path
    version: Version
    num_rows: int
    num_errors: int
    num_abstained: int = 0
    monitor_result: MonitorResult | None = None  # beside what the model was trained on, if that was asked for

    def __str__(self) -> str:
        return f"{self.out}: {format_count(self.num_rows, 'row')} by {self.version}, {self.num_errors:,} of them errors"


@dataclass(frozen=True)
class PredictExtras:
    """What is made beside the table; see `predict`."""

    review: int | None = None
    tag: str | None = None
    in_place: bool = False


@flow(**FLOW_OPTIONS)
def predict(
    source: str,
    out: str,
    model: str | None = None,
    new_only: bool = False,
    engine: str | None = None,
    precision: str | None = None,
    review: int | None = None,
    tag: str | None = None,
    in_place: bool = False,
    executor: str | None = None,
) -> PredictResult:
    """Write one row for each picture of `source` into the table `out`.

    What this version of the model was asked before is not computed again, and a run that was killed goes on where
    it stopped; the table is the same, byte for byte, as if neither had happened.

    Args:
        source: what ingest takes: a folder, an archive, a table ...; it is only read.
        out: Parquet, CSV or JSON lines by its ending; written whole or not at all; its folder must exist.
        model: registered name; None for the one named like the dataset in data/normalized.
        new_only: only pictures that stand in no table which this version wrote before.
        engine, precision: None: those of params.yaml; see lightning_modules.inference.engine_selection.
        review: also write this many pictures, most worth a person's label, into the folder OUT.review.
        tag: "xmp" or "sidecar": also write the labels into copies of the pictures, or beside them, in OUT.tagged.
        in_place: tag the pictures of the source themselves.
        executor: dask://HOST:PORT: the workers of that scheduler decode and run the network.

    Raises:
        UserError: no such source, no picture in it, nowhere to write, or no model that serves.
    """
    project = find_project()
    check_prediction(source, out)
    version = find_model(model or read_dataset_name(project), project)
    params = load_stage_params(project, "predict")
    load_monitor_params(project)  # what is wrong there is said before the work, not after it
    params |= {name: value for name, value in (("engine", engine), ("precision", precision)) if value}
    if executor:
        params["engine"] = "pytorch" if params["engine"] == "auto" else params["engine"]
    more = PredictExtras(review, tag, in_place)
    with concurrency.acquire_limits(*concurrency.name_gpu_limits()[:1]):
        predicted = answer(source, out, version, project, params, more, new_only, executor)
    if predicted.monitor_result is not None:
        retrain_if_needed(predicted.monitor_result, project)
    return predicted


@task(**TASK_RETRY_OPTIONS)
def find_model(name: str, project: Path) -> Version:
    """The version of `name` that serves now; its number is pinned for the whole batch."""
    client = model_registry.connect_registry(project)
    alias_updates.replay_if_needed(client, project)
    return model_registry.require_champion(client, name)


@task
def answer(
    source: str,
    out: str,
    version: Version,
    project: Path,
    params: dict[str, Any],
    extras: PredictExtras,
    new_only: bool,
    executor: str | None = None,
) -> PredictResult:
    """Answer the source part by part, put the parts together, then make what is made beside the table."""
    from flows.prediction.image_stream import open_images

    pictures = open_images(source)
    check_tagging(extras.tag, extras.in_place, pictures)
    if extras.review is not None and extras.review < 1:
        raise UserError(f"--review {extras.review}: name how many pictures, 1 or more")
    if extras.review and Path(out).with_suffix(".review").exists():
        raise UserError(f"{Path(out).with_suffix('.review')}: exists; move it away, or its labels would be lost")
    client = model_registry.connect_registry(project)
    bundle = model_registry.load_version_bundle(version)
    engine, found = choose_engine(bundle, params, project)
    model_registry.set_version_tags(client, version.name, version.number, collect_precision_tags(version, found))
    again = ", again: the file is replaced" if Path(out).exists() else ""
    logger.info("predict: %s tags %s%s", version, format_count(len(pictures), "picture"), again)
    with open_cluster(executor) as cluster, console.make_progress("predict", logger) as progress:
        answers = Predictor(bundle, engine, version, params, found["seen"], cluster=cluster)
        predicted, counts = predict_and_write(answers, pictures, Path(out), project, extras, new_only, progress)
    if not load_stage_params(project, "monitor")["after_predict"]:
        return predicted
    rows = answers.open_cache(project / PREDICTION_CACHE).iter_rows(counts.shard_names)
    return replace(predicted, monitor_result=check_drift(source, rows, pictures, bundle, version, project))


def check_drift(
    source: str,
    rows: Iterable[dict[str, Any]],
    pictures: ImageStream,
    bundle: Bundle,
    version: Version,
    project: Path,
) -> MonitorResult | None:
    """Whether the pictures look like those of the training; that this cannot be said is no reason to fail."""
    try:
        return check_batch(source, rows, pictures, bundle, version, project)
    except UserError as error:
        logger.warning("monitor: %s", error)
        return None


def predict_and_write(
    answers: Predictor,
    pictures: ImageStream,
    out: Path,
    project: Path,
    more: PredictExtras,
    new_only: bool,
    progress: Progress,
) -> tuple[PredictResult, PredictionCounts]:
    """The table, its summary, and what is made beside it."""
    parts = answers.open_cache(project / PREDICTION_CACHE)
    with parts.alone(wait=_log_waiting):
        progress.begin(len(pictures))
        counts = predict_table(pictures, answers, parts, out, progress, new_only=new_only)
        progress.end()
        if answers.num_cached:
            logger.info("predict: %s of them were answered before, taken over", f"{answers.num_cached:,}")
        rows, errors = format_count(counts.num_rows, "row"), f"{counts.num_errors:,}"
        logger.info("predict: %s in %s, %s of them errors", rows, out, errors)
        publish_summary(out, counts, answers, parts, pictures)
        write_extras(more, out, counts, answers, parts, pictures)
    written = PredictResult(out, answers.version, counts.num_rows, counts.num_errors, counts.num_abstained)
    return written, counts


@contextmanager
def open_cluster(executor: str | None) -> Iterator[DaskExecutor | None]:
    """The cluster that an executor names; None where none is named.

    Raises:
        UserError: it is no cluster, or cannot be reached.
    """
    if executor is None:
        yield None
        return
    from imageset.executors.dask_cluster import DaskExecutor
    from imageset.executors.factory import check_executor_name

    if not check_executor_name(executor).startswith("dask://"):
        raise UserError(f"--executor {executor}: here only dask://HOST:PORT is another one; leave it out")
    with DaskExecutor(executor.removeprefix("dask://")) as cluster:
        yield cluster


def publish_summary(
    out: Path, counts: PredictionCounts, answers: Predictor, parts: PredictionCache, pictures: ImageStream
) -> None:
    """The summary, as an artifact of the run."""
    from flows.prediction.summary import render_prediction_markdown

    title = f"{out.name}: {answers.version}"
    rows, bundle = parts.iter_rows(counts.shard_names), answers.bundle
    page = render_prediction_markdown(
        title, counts, answers.to_metadata(), rows, pictures, bundle.spec, bundle.info.multi_label
    )
    artifacts.publish_markdown(page, "predictions", title)


def write_extras(
    more: PredictExtras,
    out: Path,
    counts: PredictionCounts,
    answers: Predictor,
    parts: PredictionCache,
    pictures: ImageStream,
) -> None:
    """What `predict` was asked for beside the table."""
    if more.review:
        folder = out.with_suffix(".review")
        num = write_review(folder, pictures, parts.iter_rows(counts.shard_names), answers.bundle, more.review)
        how = "; several labels are told apart by |: ingest review.csv?separator=|" if parts.multi_label else ""
        logger.info(
            "predict: %s most worth a label in %s%s", format_count(num, "picture"), folder / "review.csv", how
        )
    if more.tag:
        target = None if more.in_place else out.with_suffix(".tagged")
        done = tag_images(pictures, parts.iter_rows(counts.shard_names), more.tag, target, parts.multi_label)
        num_tagged = done.pop(TAGGED, 0)
        left = ", ".join(f"{num:,} {cause}" for cause, num in sorted(done.items()))
        logger.info("predict: %s tagged in %s%s", format_count(num_tagged, "picture"), target or "place",
                    f"; not tagged: {left}" if left else "")  # fmt: skip


def choose_engine(bundle: Bundle, params: dict[str, Any], project: Path) -> tuple[Engine, dict[str, Any]]:
    """The engine that params.yaml or the command asks for; said unless it is the plain one."""
    from lightning_modules.inference.engine_selection import AgreementLimits, select_engine

    limits = AgreementLimits(params["min_agreement"], params["max_accuracy_loss"])
    engine, found = select_engine(
        bundle,
        params["engine"],
        params["precision"],
        open_validation_split(bundle, project),
        limits,
        project / ENGINE_CACHE,
    )
    refused = [f"{one} ({why})" for one, why in found["refused"].items() if params["precision"] == "auto"]
    not_taken = f"; not taken: {', '.join(refused)}" if refused else ""
    logger.info("predict: %s in %s: %s%s", engine.name, engine.precision, found["seen"], not_taken)
    return engine, found


def collect_precision_tags(version: Version, found: Mapping[str, Any]) -> dict[str, str]:
    """Tags for a version: which faster precisions were judged on validation pictures, and with what result. Only
    those that it does not carry yet."""
    said = {f"{found['engine']} {found['precision']}": f"used: {found['seen']}"}
    said |= {one: f"not used: {why}" for one, why in found["refused"].items() if why.startswith(JUDGED_PREFIX)}
    tags = {}
    for one, text in said.items():
        engine, precision = one.split()
        if precision != "fp32":
            tags[f"convoy.precision.{precision}"] = f"{engine}, {text}"
    return {name: text for name, text in tags.items() if version.tags.get(name) != text}


def _log_waiting() -> None:
    logger.info("predict: another prediction by this model is under way; waiting for it")
