"""Sequences: images that belong together by their names, such as the frames of a track.

The names of one style (imageset.splits.sequence_names) mean sequences if
- most classes have at least MIN_SEQUENCES of them, so that they can be divided into train, val and test: the plain
  numbers of a class's photographs would be a single sequence;
- and either a word in the name says so ("frame", "clip", "burst" ...), or the images do: neighbours within a
  sequence, and any two images of it, look alike far more often than images of two sequences of the same class.

The decision about a style is made on the images of the ingest that brought the first ones, again whenever their
number has doubled, and is final once it is positive. Images that came before it keep their place: nothing moves
when images are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imageset.splits.sequence_names import NO_FAMILY, parse_name
from imageset.utils.arrow import ROWS_AT_ONCE, take_rows, write_arrow
from imageset.utils.text import format_count

MIN_SEQUENCES = 3  # of a class: one for each split
MIN_IMAGES = 12  # with names of one style: two frames of three sequences of two classes
MIN_PAIRS = 10  # of neighbours; fewer say nothing
# Of pairs of images of two sequences, ALIKE_FRACTION are at most so far apart as pairs that count as alike.
ALIKE_FRACTION = 0.05
# Measured: 0.72 and 0.32 for tracks of traffic signs; at most 0.11 for the neighbours of plainly numbered sets.
MIN_NEIGHBOURS_ALIKE, MIN_ANY_ALIKE = 0.3, 0.15
_PAIRS_PER_FAMILY = 20_000


class StyleStats(NamedTuple):
    """How the images of one style of names look.

    Attributes:
        has_enough: whether most images are in classes with enough sequences.
        neighbours_alike: fraction of neighbours in a sequence that look alike.
        any_alike: fraction of any two images of a sequence that do.
        num_pairs: number of pairs of neighbours.
        limit: the most bits in which the hashes of two images that look alike differ.
    """

    has_enough: bool
    neighbours_alike: float
    any_alike: float
    num_pairs: int
    limit: int = 0

    @property
    def neighbours_look_alike(self) -> bool:
        """Whether images with neighbouring numbers look alike, as frames of a video do."""
        return self.num_pairs >= MIN_PAIRS and self.neighbours_alike >= MIN_NEIGHBOURS_ALIKE

    @property
    def looks_like_sequences(self) -> bool:
        """Whether the images look as those of sequences do."""
        return self.neighbours_look_alike and self.any_alike >= MIN_ANY_ALIKE


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences among N images.

    Attributes:
        first_ingests: by family of names that mean sequences, the ingest from which on its images are grouped.
        is_member: bool (N,), whether the image is in a sequence.
        num: number of sequences of several images.
        num_frames: median number of images of these.
        alike_limits: by family of names that mean no sequences although neighbours look alike, the limit of bits.
    """

    first_ingests: dict[int, int]
    is_member: np.ndarray
    num: int = 0
    num_frames: int = 0
    alike_limits: Mapping[int, int] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the sequences in a few words: "89 sequences of about 30 frames, by file name"; "" if none."""
        if not self.num:
            return ""
        return f"{format_count(self.num, 'sequence')} of about {self.num_frames:,} frames, by file name"


def find_sequences(rows: pa.Table, phashes: np.ndarray, multi_label: bool) -> Sequences:
    """Find the sequences among images.

    Args:
        rows: a table with the columns label, split, ingest, and those of `add_sequence_names`.
        phashes: uint64 (N,), perceptual hashes.
        multi_label: whether an image may have several labels; then the classes are no condition.
    """
    families = rows["family"].to_numpy()
    order = np.argsort(families, kind="stable").astype(np.int32)
    names, starts, counts = np.unique(families[order], return_index=True, return_counts=True)
    first_ingests: dict[int, int] = {}
    alike_limits: dict[int, int] = {}
    strata = _encode_strata(rows, multi_label) if len(names) else np.empty(0, np.int64)
    for name, start, num in zip(names.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if name != NO_FAMILY and num >= MIN_IMAGES:
            style = _Style(rows, phashes, strata, order[start : start + num])
            if (first := _find_first_ingest(style, bool(name & 1))) is not None:
                first_ingests[name] = first
            elif (stats := style.measure(num)).neighbours_look_alike:
                alike_limits[name] = stats.limit
    is_member = np.zeros(len(families), bool)
    ingests = rows["ingest"].to_numpy()
    for name, first in first_ingests.items():
        is_member |= (families == name) & (ingests >= first)
    _, sizes = np.unique(rows["sequence"].to_numpy()[is_member], return_counts=True)
    several = sizes[sizes > 1]
    median = int(np.median(several)) if len(several) else 0
    return Sequences(first_ingests, is_member, len(several), median, alike_limits)


def _encode_strata(rows: pa.Table, multi_label: bool) -> np.ndarray:
    """Return int64 (N,): the number of the image's class and source split."""
    codes = [
        rows[column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for column in (["split"] if multi_label else ["label", "split"])
    ]
    return np.asarray(sum((code.astype(np.int64) + 1) * 4**n for n, code in enumerate(codes[::-1])))


class _Style:
    """The images whose names have one style, sorted by ingest."""

    def __init__(self, rows: pa.Table, phashes: np.ndarray, strata: np.ndarray, numbers: np.ndarray) -> None:
        sequences, frames, ingests = (rows[name].to_numpy() for name in ("sequence", "frame", "ingest"))
        self.ingests = ingests[numbers]
        numbers = numbers[np.argsort(self.ingests, kind="stable")]
        self.ingests = ingests[numbers]
        self._sequences, self._frames = sequences[numbers], frames[numbers]
        self._strata, self._phashes = strata[numbers], phashes[numbers]

    def measure(self, num: int) -> StyleStats:
        """Measure the first `num` images."""
        has_enough = num >= MIN_IMAGES and self._has_enough_sequences(num)
        sequences, phashes, strata = (part[:num] for part in (self._sequences, self._phashes, self._strata))
        order = np.lexsort((phashes, self._frames[:num], sequences, strata))
        sequences, phashes, strata = sequences[order], phashes[order], strata[order]
        step = max(1, num // _PAIRS_PER_FAMILY)
        left = np.arange(0, num - 1, step)
        follows = (sequences[left] == sequences[left + 1]) & (strata[left] == strata[left + 1])
        neighbours = np.bitwise_count(phashes[left[follows]] ^ phashes[left[follows] + 1])
        left, right = _draw_pairs(strata)
        is_same = sequences[left] == sequences[right]
        if is_same.all():  # a single sequence in each class: its images are compared with each other
            is_same[:] = False
        others = np.bitwise_count(phashes[left] ^ phashes[right])[~is_same]
        if not len(others) or not len(neighbours):
            return StyleStats(has_enough, 0.0, 0.0, 0)
        limit = _find_limit(others)
        left, right = _draw_pairs(sequences)
        any_two = np.bitwise_count(phashes[left] ^ phashes[right])
        neighbours_alike, any_alike = (float((each <= limit).mean()) for each in (neighbours, any_two))
        return StyleStats(has_enough, neighbours_alike, any_alike, len(neighbours), limit)

    def _has_enough_sequences(self, num: int) -> bool:
        pairs = np.stack([self._strata[:num], self._sequences[:num].view(np.int64)], 1)
        found, sizes = np.unique(pairs, axis=0, return_counts=True)
        _, inverse = np.unique(found[:, 0], return_inverse=True)
        num_several = np.bincount(inverse, sizes > 1)
        num_images = np.bincount(inverse, sizes)
        num_in_several = np.bincount(inverse, sizes * (sizes > 1))
        enough = (num_several >= MIN_SEQUENCES) & (num_in_several * 2 > num_images)
        return bool(num_images[enough].sum() * 2 > num)


def _draw_pairs(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of positions with the same value, at most _PAIRS_PER_FAMILY; always the same ones."""
    rng = np.random.default_rng(0)
    order = np.argsort(groups, kind="stable")
    new = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - groups.dtype.type(1)))
    sizes = np.diff(np.append(new, len(order)))
    position = (
        np.arange(len(order))
        if len(order) <= _PAIRS_PER_FAMILY
        else rng.integers(0, len(order), _PAIRS_PER_FAMILY)
    )
    block = np.searchsorted(new, position, side="right") - 1
    shift = 1 + np.floor(rng.random(len(position)) * (sizes[block] - 1)).astype(np.int64)
    partner = new[block] + (position - new[block] + shift) % sizes[block]
    several = sizes[block] > 1
    return order[position[several]], order[partner[several]]


def _find_limit(distances: np.ndarray) -> int:
    """Return the largest number of bits at or below which at most ALIKE_FRACTION of the distances are."""
    fractions = np.cumsum(np.bincount(distances, minlength=65)) / len(distances)
    return int(np.searchsorted(fractions, ALIKE_FRACTION, side="right")) - 1


def _find_first_ingest(style: _Style, is_explicit: bool) -> int | None:
    """Return the ingest from which on the images of a style are grouped, or None."""
    for num in _iter_checkpoints(style.ingests):
        stats = style.measure(num)
        if stats.has_enough and (is_explicit or stats.looks_like_sequences):
            return int(style.ingests[num - 1])
    return None


def _iter_checkpoints(ingests: np.ndarray) -> Iterator[int]:
    """Yield the numbers of images after the first ingest, and after each that at least doubled the number."""
    ends = np.flatnonzero(np.diff(ingests, append=np.iinfo(ingests.dtype).max)) + 1
    previous = 0
    for end in ends.tolist():
        if end >= 2 * previous:
            yield end
            previous = end


def name_sequences(rows: pa.Table, sequences: Sequences, folder: str | Path) -> pa.Table:
    """Return the rows with the name of each image's sequence in the column group.

    Images in two splits of the source stay there: what would be one sequence has a name for each of them.

    Args:
        rows: a table with the columns uri, label, split (of the source) and group.
        sequences: of the rows.
        folder: where the unnamed file of the table is created.
    """
    return write_arrow(_iter_named_batches(rows, sequences), rows.schema, folder)


def _iter_named_batches(rows: pa.Table, sequences: Sequences) -> Iterator[pa.RecordBatch]:
    column = rows.schema.get_field_index("group")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows.slice(start, ROWS_AT_ONCE)
        groups = batch["group"].to_pylist()
        members = np.flatnonzero(sequences.is_member[start : start + len(batch)])
        named = take_rows(batch.select(["uri", "label", "split"]), members).to_pylist()
        for number, row in zip(members.tolist(), named, strict=True):
            if parts := parse_name(row["uri"], row["label"]):
                groups[number] = parts.sequence + (f" ({row['split']})" if row["split"] else "")
        batch = batch.set_column(column, rows.schema.field(column), pa.array(groups, pa.string()))
        yield from batch.combine_chunks().to_batches()
