"""What is refused by comparing records, without a look at pixels: twins, quarrels over a label, no label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from imageset.ondisk import id_words, taken
from imageset.quality import HARMLESS, plain


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row of rejected.parquet; image_id is None where the bytes could not be read."""

    uri: str
    image_id: str | None
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{plain(self.uri)}: {self.reason}: {plain(self.detail)}"


def judge(records: pa.Table) -> tuple[np.ndarray, list[Refusal]]:
    """Return (positions of the rows to keep, refusals of the others).

    `records` has the columns image_id, uri, label, split, reason and detail. Of rows with the same bytes one is
    kept: the one that came in the test split, else in validation, else the first by uri; none where their labels
    (or, where a picture has several, their sets of labels) disagree. The others are refused as "duplicate", or as
    "leak" where the source put them into another split.
    """
    refused = _refused_before(records)
    known, labelled = (records[column].is_valid().to_numpy() for column in ("image_id", "label"))
    single = known & labelled & _unlike_others(records["image_id"])
    positions = [np.flatnonzero(single)]
    unsure = np.flatnonzero(known & ~single)
    rows = taken(records.select(["image_id", "uri", "label", "split"]), unsure).to_pylist()
    together: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for position, row in zip(unsure.tolist(), rows, strict=True):
        together.setdefault(row["image_id"], []).append((position, row))
    for same in together.values():
        positions.append(np.array(_one_of(same, refused), np.int64))
    return np.sort(np.concatenate(positions)), refused


def _unlike_others(image_ids: pa.ChunkedArray) -> np.ndarray:
    """bool (N,): that no other has the same image_id; by 64 bits of it, so that it may be False without one."""
    values = id_words(image_ids)
    in_order = np.sort(values)
    several = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    if not len(several):
        return np.ones(len(values), bool)
    return several[np.minimum(np.searchsorted(several, values), len(several) - 1)] != values


def num_harmful(refused: Iterable[Refusal]) -> int:
    """How many refusals count towards max_reject_fraction; duplicates do not."""
    return sum(one.reason not in HARMLESS for one in refused)


def reason_counts(refused: Iterable[Refusal]) -> dict[str, int]:
    """Number of refusals by reason, sorted by reason."""
    return dict(sorted(Counter(one.reason for one in refused).items()))


def worst(refused: Sequence[Refusal]) -> str:
    """The harmful reasons with their numbers, most frequent first, and one example."""
    harmful = [one for one in refused if one.reason not in HARMLESS]
    counts = Counter(one.reason for one in harmful)
    example = min(harmful, key=lambda one: (-counts[one.reason], one.reason, one.uri))
    numbers = ", ".join(f"{num:,} {reason}" for reason, num in counts.most_common())
    return f"({numbers}), e.g. {example}"


def _refused_before(records: pa.Table) -> list[Refusal]:
    positions = np.flatnonzero(records["reason"].is_valid().to_numpy())
    rows = taken(records.select(["uri", "image_id", "reason", "detail"]), positions)
    return [Refusal(**row) for row in rows.to_pylist()]


def _one_of(same: list[tuple[int, dict[str, Any]]], refused: list[Refusal]) -> list[int]:
    """The position to keep of rows with the same bytes (or none); the others are refused."""
    labelled = []
    for position, row in same:
        if row["label"] is None:
            refused.append(_refusal(row, "unlabelled", "lies in no class folder"))
        else:
            labelled.append((position, row))
    labels = sorted({row["label"] for _, row in labelled})
    if len(labels) > 1:
        refused += [
            _refusal(row, "label_conflict", f"the same bytes are labelled {' and '.join(map(_named, labels))}")
            for _, row in labelled
        ]
        return []
    labelled.sort(key=_preference)
    refused += [_copy_of(labelled[0][1], row) for _, row in labelled[1:]]
    return [position for position, _ in labelled[:1]]


def _named(label: str) -> str:
    return label or "with nothing"  # a picture may bear none of several labels


def _copy_of(kept: dict[str, Any], row: dict[str, Any]) -> Refusal:
    detail = f"the same bytes as {kept['uri']}"
    if row["split"] is None or row["split"] == kept["split"]:
        return _refusal(row, "duplicate", detail)
    return _refusal(row, "leak", f"{detail} of the {kept['split']} split")


def _preference(one: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    row = one[1]
    return {"test": 0, "val": 1}.get(row["split"], 2), row["uri"]


def _refusal(row: dict[str, Any], reason: str, detail: str) -> Refusal:
    return Refusal(row["uri"], row["image_id"], reason, detail)
