"""Several labels a picture: in every table they are one string, the label names sorted and joined by "|".

"" says that a picture bears none of them, null that nobody has said. See docs/decisions/0005.
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
    """The one string of a set of label names.

    Raises:
        UserError: a name is empty or holds the separator.
    """
    unique = sorted(set(names))
    for name in unique:
        if not name or LABEL_SEPARATOR in name:
            raise UserError(
                f"the label {name!r} is empty or holds '{LABEL_SEPARATOR}', which stands between the labels of a "
                "picture; rename it"
            )
    return LABEL_SEPARATOR.join(unique)


def parse_labels(label: str) -> list[str]:
    """The label names in one string; none in ""."""
    return label.split(LABEL_SEPARATOR) if label else []


def label_pairs(labels: pa.ChunkedArray | pa.Array, multi_label: bool) -> tuple[np.ndarray, pa.Array]:
    """Return (positions int64 (M,) in `labels`, name that the picture there bears (M,)).

    One pair a picture where each has exactly one label; as many as it bears where `multi_label`.
    """
    whole = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    if not multi_label:
        return np.arange(len(whole)), whole
    lists = pc.split_pattern(whole, LABEL_SEPARATOR)  # type: ignore[attr-defined]
    positions, names = pc.list_parent_indices(lists), pc.list_flatten(lists)  # type: ignore[attr-defined]
    said = pc.not_equal(names, "")  # type: ignore[attr-defined]  # "" splits into one empty name
    return positions.filter(said).to_numpy(), names.filter(said)


def count_labels(labels: Iterable[str | None], multi_label: bool) -> Counter[str]:
    """How many of the labels (null is passed over) bear each name."""
    given = Counter(label for label in labels if label is not None)
    if not multi_label:
        return given
    counts: Counter[str] = Counter()
    for label, num in given.items():
        counts.update(dict.fromkeys(parse_labels(label), num))
    return counts
