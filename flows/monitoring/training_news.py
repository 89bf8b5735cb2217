"""News for a training: labels, pictures, parameters and code that the last training has not seen.

A retrain without any would compute the same model again. `find_training_news` compares, before anything is spent:
the label log with that of the data that was trained on last, the names and labels of the source with the records
of data/raw, and the dependencies of the stages with dvc.lock. Only a picture whose bytes changed under its old
name escapes it until the next ingest.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.monitoring.batch_log import MONITOR_DIR
from flows.project.paths import RAW
from flows.project.project import Project
from flows.versioning import dvc_repo
from imageset.raw.label_log import LABEL_LOG_FILE, read_label_log, read_label_log_bytes
from imageset.utils.text import format_count

NUM_TO_LABEL = 50  # pictures that a person is asked to label, at most
LEARNING_STAGES = ("normalize", "train")
NOTHING_NEW = "nothing new to train on"
MAX_CHANGES_NAMED = 3
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
MORE_FILES = re.compile(r" and [\d,]+ more files?$")  # of flows.prediction.image_stream.describe_source


@dataclass(frozen=True)
class TrainingNews:
    """The things that the next training would see for the first time.

    Attributes:
        num_labels: images that people labelled since the last training.
        tables: the tables that these labels came from.
        num_images: pictures of the source that are new, or have another label there.
        changes: dependencies of the stages that changed, such as "params.yaml changed".
    """

    num_labels: int = 0
    tables: tuple[str, ...] = ()
    num_images: int = 0
    changes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.num_labels or self.num_images or self.changes)

    def describe(self) -> str:
        """Return what is new: "14 new labels (review.csv), 3 new pictures"."""
        parts = []
        if self.num_labels:
            parts.append(f"{format_count(self.num_labels, 'new label')} ({', '.join(self.tables)})")
        if self.num_images:
            parts.append(format_count(self.num_images, "new picture"))
        named, num_more = self.changes[:MAX_CHANGES_NAMED], len(self.changes) - MAX_CHANGES_NAMED
        return ", ".join([*parts, *named, *([f"{num_more} more changes"] if num_more > 0 else [])])


def find_training_news(project: Project) -> TrainingNews:
    """Return what the next training from the last source would see for the first time; nothing is written.

    Raises:
        UserError: the source cannot be opened, or `dvc status` fails.
        OSError: the source cannot be read.
    """
    labels = list_new_labels(project)
    changes = tuple(change for change in _iter_changes(project) if not (labels and change.startswith(str(RAW))))
    return TrainingNews(
        num_labels=len({label["image_id"] for label in labels}),
        tables=tuple(dict.fromkeys(label["table"] for label in labels)),
        num_images=_count_new_images(project),
        changes=changes,
    )


def describe_labeling(source: str, batch: str, num_images: int) -> str:
    """Return how a person labels some pictures of a batch: "label 50 of these first: `convoy predict ...`, ...".

    Args:
        source: the name of the batch; a list of files, or a table, which is not named again, is "SOURCE".
        batch: its id, which names the files in data/monitor.
        num_images: the pictures of the batch.
    """
    num = min(NUM_TO_LABEL, num_images)
    is_folder = not source.endswith(TABLE_SUFFIXES) and not MORE_FILES.search(source)
    table, review = MONITOR_DIR / f"{batch}.parquet", MONITOR_DIR / f"{batch}.review" / "review.csv"
    return (
        f"label {num} of these first: `convoy predict {shlex.quote(source) if is_folder else 'SOURCE'} "
        f"--out {table} --review {num}`, fill in {review}, then `convoy run {review}`"
    )


def list_new_labels(project: Project) -> list[dict[str, Any]]:
    """Return the labels of people that the data of the last training did not have, as lines of the label log.

    Raises:
        UserError: the label log is damaged.
    """
    lock = dvc_repo.read_stage_lock(dvc_repo.read_lock(project), LEARNING_STAGES[0])
    trained = next((dep.get("md5") for dep in lock.get("deps") or [] if dep.get("path") == RAW.as_posix()), None)
    pointer = project / f"{RAW}.dvc"
    if not pointer.exists() or dvc_repo.parse_pointer(pointer.read_text(encoding="utf-8")) == trained:
        return []
    former = dvc_repo.read_cached_file(project, trained, LABEL_LOG_FILE) if trained else None
    read_label_log(project / RAW)  # raises for a damaged line
    lines = read_label_log_bytes(project / RAW).splitlines()[len((former or b"").splitlines()) :]
    return [label for label in map(json.loads, lines) if "image_id" in label]


def _iter_changes(project: Project) -> Iterator[str]:
    """Yield the changed dependencies of the stages that decide about the model, each once."""
    stages = dvc_repo.find_changed_stages(project)
    changes = (change for name in LEARNING_STAGES for change in stages.get(name, ()))
    # An output that was deleted is restored from DVC's cache: nothing is learned from that.
    yield from dict.fromkeys(change for change in changes if not change.endswith(" deleted"))


def _count_new_images(project: Project) -> int:
    """Return how many pictures of the source data/raw does not have, or has with another label."""
    from flows.versioning.source_check import open_checked_source
    from imageset.raw.records import iter_record_batches
    from imageset.utils.progress import SilentProgress

    known: set[int] = set()  # hashes: a few bytes for each of a million pictures
    for batch in iter_record_batches(project / RAW):
        known.update(map(hash, zip(batch["uri"].to_pylist(), batch["label"].to_pylist(), strict=True)))
    source = open_checked_source(dvc_repo.read_last_source(project), SilentProgress())
    return sum(hash((image.uri, image.label)) not in known for image in source)
