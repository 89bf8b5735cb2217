"""Rejections found by comparing records, without pixels: exact duplicates, label conflicts, missing labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from imageset.rejections import Rejection
from imageset.utils.arrow import take_rows, to_id_words


def find_duplicates(records: pa.Table, kind: str = "folder") -> tuple[np.ndarray, list[Rejection]]:
    """Find the rows to keep and reject the others.

    Of rows with the same bytes a single row is kept: the row of the test split, else of validation, else the first
    by uri; none if their labels (for a multi-label dataset, their sets of labels) differ. The others are rejected
    as "duplicate", or as "leak" if the source put them into another split.

    Args:
        records: a table with the columns image_id, uri, label, split, reason and detail.
        kind: of the source; it says where a label is missing.

    Returns:
        (int64 positions of the rows to keep in ascending order, the rejections of the others).
    """
    rejections = _list_already_rejected(records)
    known, labelled = (records[column].is_valid().to_numpy() for column in ("image_id", "label"))
    single = known & labelled & _are_unique(records["image_id"])
    kept = [np.flatnonzero(single)]
    ambiguous = np.flatnonzero(known & ~single)
    rows = take_rows(records.select(["image_id", "uri", "label", "split"]), ambiguous).to_pylist()
    rows_by_id: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for position, row in zip(ambiguous.tolist(), rows, strict=True):
        rows_by_id.setdefault(row["image_id"], []).append((position, row))
    for copies in rows_by_id.values():
        kept.append(np.array(_choose_copy(copies, rejections, kind), np.int64))
    return np.sort(np.concatenate(kept)), rejections


def _are_unique(image_ids: pa.ChunkedArray) -> np.ndarray:
    """Return bool (N,): whether no other row has the same image_id.

    Only 64 bits of the image_id are compared: the result may be False for a unique image_id, too.
    """
    values = to_id_words(image_ids)
    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return np.ones(len(values), bool)
    return repeated[np.minimum(np.searchsorted(repeated, values), len(repeated) - 1)] != values


def _list_already_rejected(records: pa.Table) -> list[Rejection]:
    positions = np.flatnonzero(records["reason"].is_valid().to_numpy())
    rows = take_rows(records.select(["uri", "image_id", "reason", "detail"]), positions)
    return [Rejection(**row) for row in rows.to_pylist()]


def _choose_copy(copies: list[tuple[int, dict[str, Any]]], rejections: list[Rejection], kind: str) -> list[int]:
    """Return the position to keep of rows with the same bytes, or none; append the rejections of the others."""
    labelled = []
    for position, row in copies:
        if row["label"] is None:
            detail = "the cell of its label is empty" if kind == "table" else "lies in no class folder"
            rejections.append(_build_rejection(row, "unlabelled", detail))
        else:
            labelled.append((position, row))
    labels = sorted({row["label"] for _, row in labelled})
    if len(labels) > 1:
        rejections += [
            _build_rejection(
                row, "label_conflict", f"the same bytes are labelled {' and '.join(map(_display_label, labels))}"
            )
            for _, row in labelled
        ]
        return []
    labelled.sort(key=_rank_row)
    rejections += [_reject_copy(labelled[0][1], row) for _, row in labelled[1:]]
    return [position for position, _ in labelled[:1]]


def _display_label(label: str) -> str:
    return label or "with nothing"  # an image of a multi-label dataset may have no label


def _reject_copy(kept: dict[str, Any], row: dict[str, Any]) -> Rejection:
    detail = f"the same bytes as {kept['uri']}"
    if row["split"] is None or row["split"] == kept["split"]:
        return _build_rejection(row, "duplicate", detail)
    return _build_rejection(row, "leak", f"{detail} of the {kept['split']} split")


def _rank_row(numbered_row: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    row = numbered_row[1]
    return {"test": 0, "val": 1}.get(row["split"], 2), row["uri"]


def _build_rejection(row: dict[str, Any], reason: str, detail: str) -> Rejection:
    return Rejection(row["uri"], row["image_id"], reason, detail)
