"""Multi-label images: in every table the labels are one string, the label names sorted and joined by "|".

"" means that an image has none of the labels, null that it is unlabelled. See docs/decisions/0005.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.exceptions import UserError

LABEL_SEPARATOR = "|"
MULTI_CLASS, MULTI_LABEL = "multi-class", "multi-label"


def join_labels(names: Iterable[str]) -> str:
    """Return the one string of a set of label names.

    Raises:
        UserError: a name is empty or holds the separator.
    """
    unique = sorted(set(names))
    for name in unique:
        if not name or LABEL_SEPARATOR in name:
            raise UserError(
                f"the label {name!r} is empty or holds '{LABEL_SEPARATOR}', which separates the labels of a "
                "picture; rename it"
            )
    return LABEL_SEPARATOR.join(unique)


def parse_labels(label: str) -> list[str]:
    """Return the label names in one string; the list is empty for ""."""
    return label.split(LABEL_SEPARATOR) if label else []


def build_label_pairs(labels: pa.ChunkedArray | pa.Array, multi_label: bool) -> tuple[np.ndarray, pa.Array]:
    """Return a pair of position and label name for each label that an image has.

    Args:
        labels: the labels of N images, without nulls.
        multi_label: whether a label is a set of names; if not, there is exactly one pair per image.

    Returns:
        (positions int64 (M,) in `labels`, names (M,) of the labels of the images there).
    """
    combined = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    if not multi_label:
        return np.arange(len(combined)), combined
    lists = pc.split_pattern(combined, LABEL_SEPARATOR)  # type: ignore[attr-defined]
    positions, names = pc.list_parent_indices(lists), pc.list_flatten(lists)  # type: ignore[attr-defined]
    is_named = pc.not_equal(names, "")  # type: ignore[attr-defined]  # "" splits into one empty name
    return positions.filter(is_named).to_numpy(), names.filter(is_named)


def count_labels(labels: Iterable[str | None], multi_label: bool) -> Counter[str]:
    """Return the number of images that have each label name; null labels are ignored."""
    given = Counter(label for label in labels if label is not None)
    if not multi_label:
        return given
    counts: Counter[str] = Counter()
    for label, num in given.items():
        counts.update(dict.fromkeys(parse_labels(label), num))
    return counts
