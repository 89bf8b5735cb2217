"""The label log: who gave which image which label, when, and from which table. Lines are only ever added to it.

data/raw/label_log.jsonl holds one JSON object a line, in the order in which the labels came:
    time        when the line was written, ISO 8601 in UTC
    image_id    SHA-256 of the image's bytes
    label       its label; of a multi-label dataset the names joined by "|", "" for none of them
    previous    its label before; null if it had none, or was not in the dataset
    annotator   the name of the person
    table       the table that the label came from
and, where they are known, labeled_at (as the table says), guess, probability and model (of the prediction that the
person saw), and "resolves": true if the label sets aside what others said before.

The last label of each person counts. An image whose persons disagree is disputed, and held out of the dataset
until they agree, or a label resolves it. If another source takes the place of the former one, a line with
"event": "source_replaced" lists under "dropped" the images whose labels count no longer.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imageset.exceptions import UserError
from imageset.raw.source_file import LABEL_LOG_FILE, check_raw_file

SOURCE_REPLACED = "source_replaced"
IMAGE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One label that a person gave an image; the attributes are the keys of a line."""

    time: str
    image_id: str
    label: str
    previous: str | None
    annotator: str
    table: str
    labeled_at: str | None = None
    guess: str | None = None
    probability: float | None = None
    model: str | None = None
    resolves: bool = False

    def to_line(self) -> str:
        """Return the line of the log; optional keys that are not known are left out."""
        values = asdict(self)
        optional = ("labeled_at", "guess", "probability", "model", "resolves")
        return format_line({key: value for key, value in values.items() if key not in optional or value})


def format_line(values: Mapping[str, Any]) -> str:
    """Return a line of the log, with its end."""
    return json.dumps(values, ensure_ascii=False) + "\n"


@dataclass(slots=True)
class ImageLabels:
    """The labels that people gave one image.

    Attributes:
        previous: its label before the first of them; None if it had none.
        by_annotator: the name and the last label of each person, by the name that `fold_annotator` returns.
    """

    previous: str | None
    by_annotator: dict[str, tuple[str, str]] = field(default_factory=dict)

    def find_label(self) -> str | None:
        """Return the label that all of them gave, or None if they disagree."""
        labels = {label for _, label in self.by_annotator.values()}
        return labels.pop() if len(labels) == 1 else None

    def describe_dispute(self) -> str:
        """Return who says what: "Anna says cat, Ben says dog"."""
        return ", ".join(
            f"{name} says {label or 'none of the labels'}" for name, label in self.by_annotator.values()
        )


class LabelLog:
    """The state after all lines of a label log."""

    def __init__(self) -> None:
        self._by_image: dict[str, ImageLabels] = {}

    def add(self, entry: LabelEntry) -> None:
        """Apply one more label."""
        labels = self._by_image.setdefault(entry.image_id, ImageLabels(entry.previous))
        if entry.resolves:
            labels.by_annotator.clear()
        labels.by_annotator[fold_annotator(entry.annotator)] = entry.annotator, entry.label

    def drop(self, image_ids: Iterable[str]) -> None:
        """Forget the labels of images."""
        for image_id in image_ids:
            self._by_image.pop(image_id, None)

    def find_image(self, image_id: str) -> ImageLabels | None:
        """Return the labels of an image, or None if nobody has given it one."""
        return self._by_image.get(image_id)

    def overrules(self, image_id: str | None, label: str | None) -> bool:
        """Return whether a label of the source is neither the one that people gave nor the one that they saw."""
        given = self._by_image.get(image_id or "")
        return (
            given is not None
            and given.find_label() is not None
            and label not in (given.find_label(), given.previous)
        )

    def iter_images(self) -> Iterator[tuple[str, ImageLabels]]:
        """Yield the image_id and the labels of each image."""
        yield from self._by_image.items()

    def collect_labels(self) -> dict[str, str]:
        """Return the label by image_id, without disputed images."""
        found = ((image_id, labels.find_label()) for image_id, labels in self._by_image.items())
        return {image_id: label for image_id, label in found if label is not None}

    def collect_disputes(self) -> dict[str, str]:
        """Return who says what, by the image_id of each disputed image."""
        return {
            image_id: labels.describe_dispute()
            for image_id, labels in self._by_image.items()
            if labels.find_label() is None
        }

    def count(self) -> dict[str, int]:
        """Return the numbers of images that were corrected, added (they had no label) and are disputed."""
        counts = {"corrected": 0, "added": 0, "disputed": 0}
        for labels in self._by_image.values():
            label = labels.find_label()
            if label is None:
                counts["disputed"] += 1
            elif labels.previous is None:
                counts["added"] += 1
            elif label != labels.previous:
                counts["corrected"] += 1
        return counts

    def __len__(self) -> int:
        return len(self._by_image)


def fold_annotator(name: str) -> str:
    """Return what two spellings of a person's name have in common: "Anna", "anna " and "ANNA" are one."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def read_label_log(raw_dir: str | Path) -> LabelLog:
    """Return the state of the label log; it is empty if there is none.

    Raises:
        UserError: a line is damaged, or the file cannot be read.
    """
    path, log = Path(raw_dir) / LABEL_LOG_FILE, LabelLog()
    check_raw_file(Path(raw_dir), LABEL_LOG_FILE)
    for number, line in enumerate(_iter_lines(path), start=1):
        try:
            values = json.loads(line)
            if values.get("event") == SOURCE_REPLACED:
                log.drop(values["dropped"])
            else:
                log.add(_parse_entry(values))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{path}: line {number} is damaged; remove the file, and `dvc checkout {raw_dir}.dvc` restores "
                "the last version"
            ) from None
    return log


def read_label_log_bytes(raw_dir: Path) -> bytes:
    """Return the content of the label log; it is empty if there is none."""
    try:
        return (raw_dir / LABEL_LOG_FILE).read_bytes()
    except FileNotFoundError:
        return b""


def _iter_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:  # in bytes: text has line ends that JSON does not escape
            yield from file
    except FileNotFoundError:
        return


def _parse_entry(values: dict[str, Any]) -> LabelEntry:
    known = {key: value for key, value in values.items() if key in LabelEntry.__slots__}
    entry = LabelEntry(**known)
    if not all(isinstance(value, str) for value in (entry.label, entry.annotator, entry.table)):
        raise ValueError
    if not IMAGE_ID.fullmatch(entry.image_id) or not isinstance(entry.previous, str | None):
        raise ValueError
    return entry
