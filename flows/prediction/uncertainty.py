"""Select the predictions that the model is least confident about.

Sources: B. Settles, "Active Learning Literature Survey", 2009, section 3.1 (margin sampling); K. Brinker, "On
Active Learning in Multi-label Classification", 2006 (an image is as unsure as the least sure of its labels).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Iterable
from typing import Any


def compute_margin(row: dict[str, Any], multi_label: bool = False) -> float:
    """Return the margin of a prediction; a small one is unsure.

    Single-label: probability of the best class less that of the second, 0..1. Multi-label: probability of the
    least confident decision less that of its opposite, below 0 for a label that is predicted although it is less
    likely than not. 0, which is unsure, if a probability is no number.
    """
    margin = _subtract_second(row, multi_label)
    return 0.0 if math.isnan(margin) else margin


def _subtract_second(row: dict[str, Any], multi_label: bool) -> float:
    if multi_label:
        return float(2 * row["probability"] - 1)
    probabilities = [entry["probability"] for entry in row["top_k"]]
    second = probabilities[1] if len(probabilities) > 1 else 1 - probabilities[0]
    return float(probabilities[0] - second)


def find_least_confident(
    rows: Iterable[dict[str, Any]], num: int, multi_label: bool = False, excluded: Container[str] = ()
) -> list[dict[str, Any]]:
    """Return the `num` rows of smallest margin, the smallest first; equal images count once.

    Args:
        rows: predictions; errors are left out.
        num: number of rows.
        multi_label: whether an image may have several labels.
        excluded: image_ids of images that are left out, too.
    """
    best: dict[str, dict[str, Any]] = {}
    limit = float("inf")
    for row in rows:
        if row["status"] == "error" or row["image_id"] in best or compute_margin(row, multi_label) > limit:
            continue
        if row["image_id"] in excluded:
            continue
        best[row["image_id"]] = row
        if len(best) >= 2 * num + 100:
            best = {row["image_id"]: row for row in _take_smallest(best, num, multi_label)}
            limit = max(compute_margin(row, multi_label) for row in best.values())
    return _take_smallest(best, num, multi_label)


def _take_smallest(rows: dict[str, dict[str, Any]], num: int, multi_label: bool) -> list[dict[str, Any]]:
    return heapq.nsmallest(num, rows.values(), key=lambda row: (compute_margin(row, multi_label), row["image_id"]))
