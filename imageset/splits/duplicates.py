"""What is refused by comparing records, without a look at pixels: twins, quarrels over a label, no label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from imageset.rejections import Rejection
from imageset.utils.arrow import take_rows, to_id_words


def find_duplicates(records: pa.Table) -> tuple[np.ndarray, list[Rejection]]:
    """Return (positions of the rows to keep, refusals of the others).

    `records` has the columns image_id, uri, label, split, reason and detail. Of rows with the same bytes one is
    kept: the one that came in the test split, else in validation, else the first by uri; none where their labels
    (or, where a picture has several, their sets of labels) disagree. The others are refused as "duplicate", or as
    "leak" where the source put them into another split.
    """
    refused = _list_already_rejected(records)
    known, labelled = (records[column].is_valid().to_numpy() for column in ("image_id", "label"))
    single = known & labelled & _are_unique(records["image_id"])
    positions = [np.flatnonzero(single)]
    unsure = np.flatnonzero(known & ~single)
    rows = take_rows(records.select(["image_id", "uri", "label", "split"]), unsure).to_pylist()
    together: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for position, row in zip(unsure.tolist(), rows, strict=True):
        together.setdefault(row["image_id"], []).append((position, row))
    for same in together.values():
        positions.append(np.array(_choose_one(same, refused), np.int64))
    return np.sort(np.concatenate(positions)), refused


def _are_unique(image_ids: pa.ChunkedArray) -> np.ndarray:
    """bool (N,): that no other has the same image_id; by 64 bits of it, so that it may be False without one."""
    values = to_id_words(image_ids)
    in_order = np.sort(values)
    several = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    if not len(several):
        return np.ones(len(values), bool)
    return several[np.minimum(np.searchsorted(several, values), len(several) - 1)] != values


def _list_already_rejected(records: pa.Table) -> list[Rejection]:
    positions = np.flatnonzero(records["reason"].is_valid().to_numpy())
    rows = take_rows(records.select(["uri", "image_id", "reason", "detail"]), positions)
    return [Rejection(**row) for row in rows.to_pylist()]


def _choose_one(same: list[tuple[int, dict[str, Any]]], refused: list[Rejection]) -> list[int]:
    """The position to keep of rows with the same bytes (or none); the others are refused."""
    labelled = []
    for position, row in same:
        if row["label"] is None:
            refused.append(_build_rejection(row, "unlabelled", "lies in no class folder"))
        else:
            labelled.append((position, row))
    labels = sorted({row["label"] for _, row in labelled})
    if len(labels) > 1:
        refused += [
            _build_rejection(
                row, "label_conflict", f"the same bytes are labelled {' and '.join(map(_display_label, labels))}"
            )
            for _, row in labelled
        ]
        return []
    labelled.sort(key=_rank_row)
    refused += [_reject_copy(labelled[0][1], row) for _, row in labelled[1:]]
    return [position for position, _ in labelled[:1]]


def _display_label(label: str) -> str:
    return label or "with nothing"  # a picture may bear none of several labels


def _reject_copy(kept: dict[str, Any], row: dict[str, Any]) -> Rejection:
    detail = f"the same bytes as {kept['uri']}"
    if row["split"] is None or row["split"] == kept["split"]:
        return _build_rejection(row, "duplicate", detail)
    return _build_rejection(row, "leak", f"{detail} of the {kept['split']} split")


def _rank_row(one: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    row = one[1]
    return {"test": 0, "val": 1}.get(row["split"], 2), row["uri"]


def _build_rejection(row: dict[str, Any], reason: str, detail: str) -> Rejection:
    return Rejection(row["uri"], row["image_id"], reason, detail)
