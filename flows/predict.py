"""Predict: the champion tags the pictures of a source, one row a picture, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows import console, limits, moves, pages, registry
from flows.answers import Answers
from flows.checks import check_prediction
from flows.monitor import Monitored, carry_out, compare
from flows.project import CACHE, NORMALIZED, dataset_name, find_project, monitor_params, stage_params
from flows.registry import Version
from flows.retries import RETRIED
from flows.review import write_review
from flows.tables import predict_table
from flows.tagging import TAGGED, check_tagging, tag_pictures
from flows.watched import WATCHED
from imageset.errors import UserError
from imageset.words import count

if TYPE_CHECKING:
    from flows.parts import Parts
    from flows.pictures import Pictures
    from flows.tables import Counts
    from imageset.cluster import DaskCluster
    from imageset.progress import Progress
    from imageset.store import StoreSplit
    from lightning_modules.bundle import Bundle
    from lightning_modules.engines import Engine

logger = console.get_logger(__name__)

PARTS = CACHE / "predictions"
ENGINES = CACHE / "engines"
JUDGED = "agrees with fp32"  # how what is seen of a faster precision begins


@dataclass(frozen=True)
class Predicted:
    """What was written where, by which model."""

    out: Path
    version: Version
    num_rows: int
    num_errors: int
    num_abstained: int = 0
    monitored: Monitored | None = None  # beside what the model was trained on, if that was asked for

    def __str__(self) -> str:
        return f"{self.out}: {count(self.num_rows, 'row')} by {self.version}, {self.num_errors:,} of them errors"


@dataclass(frozen=True)
class Extras:
    """What is made beside the table; see `predict`."""

    review: int | None = None
    tag: str | None = None
    in_place: bool = False


@flow(**WATCHED)
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
) -> Predicted:
    """Write one row for each picture of `source` into the table `out`.

    What this version of the model was asked before is not computed again, and a run that was killed goes on where
    it stopped; the table is the same, byte for byte, as if neither had happened.

    Args:
        source: what ingest takes: a folder, an archive, a table ...; it is only read.
        out: Parquet, CSV or JSON lines by its ending; written whole or not at all; its folder must exist.
        model: registered name; None for the one named like the dataset in data/normalized.
        new_only: only pictures that stand in no table which this version wrote before.
        engine, precision: None: those of params.yaml; see lightning_modules.engine_choice.
        review: also write this many pictures, most worth a person's label, into the folder OUT.review.
        tag: "xmp" or "sidecar": also write the labels into copies of the pictures, or beside them, in OUT.tagged.
        in_place: tag the pictures of the source themselves.
        executor: dask://HOST:PORT: the workers of that scheduler decode and run the network.

    Raises:
        UserError: no such source, no picture in it, nowhere to write, or no model that serves.
    """
    project = find_project()
    check_prediction(source, out)
    version = find_model(model or dataset_name(project), project)
    params = stage_params(project, "predict")
    monitor_params(project)  # what is wrong there is said before the work, not after it
    params |= {name: value for name, value in (("engine", engine), ("precision", precision)) if value}
    if executor:
        params["engine"] = "pytorch" if params["engine"] == "auto" else params["engine"]
    more = Extras(review, tag, in_place)
    with limits.hold(*limits.of_gpus()[:1]):
        predicted = answer(source, out, version, project, params, more, new_only, executor)
    if predicted.monitored is not None:
        carry_out(predicted.monitored, project)
    return predicted


@task(**RETRIED)
def find_model(name: str, project: Path) -> Version:
    """The version of `name` that serves now; its number is pinned for the whole batch."""
    client = registry.connect(project)
    moves.settle_if_needed(client, project)
    return registry.require_champion(client, name)


@task
def answer(
    source: str,
    out: str,
    version: Version,
    project: Path,
    params: dict[str, Any],
    more: Extras,
    new_only: bool,
    executor: str | None = None,
) -> Predicted:
    """Answer the source part by part, put the parts together, then make what is made beside the table."""
    from flows.pictures import open_pictures

    pictures = open_pictures(source)
    check_tagging(more.tag, more.in_place, pictures)
    if more.review is not None and more.review < 1:
        raise UserError(f"--review {more.review}: name how many pictures, 1 or more")
    if more.review and Path(out).with_suffix(".review").exists():
        raise UserError(f"{Path(out).with_suffix('.review')}: exists; move it away, or its labels would be lost")
    client = registry.connect(project)
    bundle = registry.bundle_of(version)
    engine, found = choose_engine(bundle, params, project)
    registry.set_tags(client, version.name, version.number, unknown_precisions(version, found))
    again = ", again: the file is replaced" if Path(out).exists() else ""
    logger.info("predict: %s tags %s%s", version, count(len(pictures), "picture"), again)
    with open_cluster(executor) as cluster, console.progress("predict", logger) as progress:
        answers = Answers(bundle, engine, version, params, found["seen"], cluster=cluster)
        predicted, counts = write_all(answers, pictures, Path(out), project, more, new_only, progress)
    if not stage_params(project, "monitor")["after_predict"]:
        return predicted
    rows = answers.parts(project / PARTS).rows(counts.names)
    return replace(predicted, monitored=look_at(source, rows, pictures, bundle, version, project))


def look_at(
    source: str,
    rows: Iterable[dict[str, Any]],
    pictures: Pictures,
    bundle: Bundle,
    version: Version,
    project: Path,
) -> Monitored | None:
    """Whether the pictures look like those of the training; that this cannot be said is no reason to fail."""
    try:
        return compare(source, rows, pictures, bundle, version, project)
    except UserError as error:
        logger.warning("monitor: %s", error)
        return None


def write_all(
    answers: Answers,
    pictures: Pictures,
    out: Path,
    project: Path,
    more: Extras,
    new_only: bool,
    progress: Progress,
) -> tuple[Predicted, Counts]:
    """The table, its summary, and what is made beside it."""
    parts = answers.parts(project / PARTS)
    with parts.alone(wait=_say_who_is_at_it):
        progress.begin(len(pictures))
        counts = predict_table(pictures, answers, parts, out, progress, new_only=new_only)
        progress.end()
        if answers.num_taken_over:
            logger.info("predict: %s of them were answered before, taken over", f"{answers.num_taken_over:,}")
        rows, errors = count(counts.num_rows, "row"), f"{counts.num_errors:,}"
        logger.info("predict: %s in %s, %s of them errors", rows, out, errors)
        publish(out, counts, answers, parts, pictures)
        make_more(more, out, counts, answers, parts, pictures)
    written = Predicted(out, answers.version, counts.num_rows, counts.num_errors, counts.num_abstained)
    return written, counts


@contextmanager
def open_cluster(executor: str | None) -> Iterator[DaskCluster | None]:
    """The cluster that an executor names; None where none is named.

    Raises:
        UserError: it is no cluster, or cannot be reached.
    """
    if executor is None:
        yield None
        return
    from imageset.cluster import DaskCluster
    from imageset.executors import check_name

    if not check_name(executor).startswith("dask://"):
        raise UserError(f"--executor {executor}: here only dask://HOST:PORT is another one; leave it out")
    with DaskCluster(executor.removeprefix("dask://")) as cluster:
        yield cluster


def publish(out: Path, counts: Counts, answers: Answers, parts: Parts, pictures: Pictures) -> None:
    """The summary, as an artifact of the run."""
    from flows.summary import markdown

    title = f"{out.name}: {answers.version}"
    rows, bundle = parts.rows(counts.names), answers.bundle
    page = markdown(title, counts, answers.facts(), rows, pictures, bundle.spec, bundle.info.multi_label)
    pages.publish(page, "predictions", title)


def make_more(more: Extras, out: Path, counts: Counts, answers: Answers, parts: Parts, pictures: Pictures) -> None:
    """What `predict` was asked for beside the table."""
    if more.review:
        folder = out.with_suffix(".review")
        num = write_review(folder, pictures, parts.rows(counts.names), answers.bundle, more.review)
        how = "; several labels are told apart by |: ingest review.csv?separator=|" if parts.multi_label else ""
        logger.info("predict: %s most worth a label in %s%s", count(num, "picture"), folder / "review.csv", how)
    if more.tag:
        target = None if more.in_place else out.with_suffix(".tagged")
        done = tag_pictures(pictures, parts.rows(counts.names), more.tag, target, parts.multi_label)
        num_tagged = done.pop(TAGGED, 0)
        left = ", ".join(f"{num:,} {cause}" for cause, num in sorted(done.items()))
        logger.info("predict: %s tagged in %s%s", count(num_tagged, "picture"), target or "place",
                    f"; not tagged: {left}" if left else "")  # fmt: skip


def choose_engine(bundle: Bundle, params: dict[str, Any], project: Path) -> tuple[Engine, dict[str, Any]]:
    """The engine that params.yaml or the command asks for; said unless it is the plain one."""
    from lightning_modules.engine_choice import Limits, choose

    limits = Limits(params["min_agreement"], params["max_accuracy_loss"])
    engine, found = choose(
        bundle, params["engine"], params["precision"], validation_of(bundle, project), limits, project / ENGINES
    )
    refused = [f"{one} ({why})" for one, why in found["refused"].items() if params["precision"] == "auto"]
    not_taken = f"; not taken: {', '.join(refused)}" if refused else ""
    logger.info("predict: %s in %s: %s%s", engine.name, engine.precision, found["seen"], not_taken)
    return engine, found


def unknown_precisions(version: Version, found: Mapping[str, Any]) -> dict[str, str]:
    """Tags for a version: which faster precisions were judged on validation pictures, and with what result. Only
    those that it does not carry yet."""
    said = {f"{found['engine']} {found['precision']}": f"used: {found['seen']}"}
    said |= {one: f"not used: {why}" for one, why in found["refused"].items() if why.startswith(JUDGED)}
    tags = {}
    for one, text in said.items():
        engine, precision = one.split()
        if precision != "fp32":
            tags[f"convoy.precision.{precision}"] = f"{engine}, {text}"
    return {name: text for name, text in tags.items() if version.tags.get(name) != text}


def validation_of(bundle: Bundle, project: Path) -> StoreSplit | None:
    """The validation split of the data that a bundle was trained on, if data/normalized still holds that."""
    from imageset.store import ImageStore

    try:
        store = ImageStore.open(project / NORMALIZED)
    except UserError:
        return None
    split = store.split("val")
    same = store.fingerprint == bundle.info.dataset["fingerprint"] and store.classes == bundle.info.classes
    return split if same and len(split) else None


def _say_who_is_at_it() -> None:
    logger.info("predict: another prediction by this model is under way; waiting for it")
