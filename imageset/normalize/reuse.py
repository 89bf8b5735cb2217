"""Reuse of the dataset in the output folder: images that it holds need not be decoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset.decoding.bit_depth import forget_ranges
from imageset.decoding.decoder import DECODER_VERSION
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.normalize.tasks import DecodedFacts
from imageset.splits.stratification import NO_SPLIT, encode_splits
from imageset.store.format import (
    DATASET_MANIFEST_FILE,
    LEAKS_FILE,
    NPY_HEADER_BYTES,
    PEAKS_FILE,
    PEAKS_SCHEMA,
    REJECTED_FILE,
    name_pixel_shard,
)
from imageset.store.reader import ImageStore, check_table, read_index
from imageset.utils.arrow import to_id_words
from imageset.utils.integrity.file_digests import DIGESTS_KEY

# Columns of the index: those that are reused, and those that ImageStore.open compares with the manifest.
REUSED_COLUMNS = (
    *("image_id", "shard", "row", "label", "split"),
    *("width", "height", "phash", "sums", "square_sums"),
)
# Rejections that decoding the same bytes again would not change ("unsupported" may: a decoder may be installed).
_LASTING_REASONS = frozenset({"empty", "not_an_image", "truncated", "undecodable", "too_small", "bomb"})


def _open_with_leaks(path: Path) -> ImageStore:
    """Open a dataset; add leaks.parquet to its index, since the pixels of leaks lie in the shards, too."""
    store = ImageStore.open(path, REUSED_COLUMNS, check_pixels=False)
    for name in (LEAKS_FILE, PEAKS_FILE, REJECTED_FILE):
        if (path / name).is_file() or name in store.manifest.get(DIGESTS_KEY, {}):
            check_table(path / name, store.manifest)
    if (path / LEAKS_FILE).is_file():
        merged = pa.concat_tables([store.index, read_index(path / LEAKS_FILE, REUSED_COLUMNS)])
        store.index = merged.sort_by([("shard", "ascending"), ("row", "ascending")]).combine_chunks()
    return store


def _drop_damaged_shards(store: ImageStore) -> list[str]:
    """Remove the rows of damaged shards from a dataset's index, and return the names of the shards."""
    damaged = store.find_damaged_shards(thorough=True) if DIGESTS_KEY in store.manifest else _find_by_sums(store)
    if damaged:
        shards = store.index["shard"]
        whole = [number for number in shards.unique().to_pylist() if name_pixel_shard(number) not in damaged]
        store.index = store.index.filter(pc.is_in(shards, value_set=pa.array(whole, shards.type)))  # type: ignore[attr-defined]
    return damaged


def _find_by_sums(store: ImageStore) -> list[str]:
    """Return the shards whose pixels do not have the sums of the index, for a dataset without digests."""
    damaged = []
    for number in store.index["shard"].unique().to_pylist():
        rows = store.index.filter(pc.equal(store.index["shard"], number))  # type: ignore[attr-defined]
        expected = rows["sums"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        pixels = store.open_shard(number)
        actual = [pixels[row].sum(axis=(0, 1), dtype=np.int64) for row in rows["row"].to_pylist()]
        if (np.array(actual) != expected).any():
            damaged.append(name_pixel_shard(number))
    return damaged


def _read_peaks(store: ImageStore) -> tuple[np.ndarray, np.ndarray]:
    """Return (peaks, float_peaks) of DecodedFacts for the rows of a dataset's index."""
    peaks, is_float = np.full(len(store.index), -1, np.float32), np.zeros(len(store.index), bool)
    if (store.path / PEAKS_FILE).is_file():
        table = pq.read_table(store.path / PEAKS_FILE, schema=PEAKS_SCHEMA)
        positions = pc.index_in(store.index["image_id"], value_set=table["image_id"])  # type: ignore[attr-defined]
        known = np.flatnonzero(positions.is_valid().to_numpy())
        rows = positions.drop_null().to_numpy()
        peaks[known], is_float[known] = (table[name].to_numpy()[rows] for name in ("peak", "is_float"))
    return peaks, is_float


class PreviousDataset:
    """The previous dataset, if it has the same decoder version and decode parameters; else it is empty.

    The ranges of values of more than 8 bits may differ, since they follow from the images.

    Args:
        store: the dataset, or None.
        spec: the decode parameters of the new dataset.

    Attributes:
        spec: the decode parameters of the dataset; if it is empty, of the new one.
        damage: a line for the user about each part of it that is damaged, and therefore not reused.
        linked_digests: the SHA-256 of the shards that were linked, by their new names.
    """

    def __init__(self, store: ImageStore | None, spec: DecodeSpec, damage: Sequence[str] = ()) -> None:
        self._store, self._spec, self.damage = store, spec, list(damage)
        self.linked_digests: dict[str, str] = {}
        self.spec = spec if store is None else store.spec
        self._rejected: dict[str, tuple[str, str]] = {}
        if store is None:
            return
        self._index = store.index
        self._shards, self._rows = (self._index[column].to_numpy() for column in ("shard", "row"))
        self._peaks, self._float_peaks = _read_peaks(store)
        for row in pq.ParquetFile(store.path / REJECTED_FILE).read().to_pylist():
            if row["image_id"] is not None and row["reason"] in _LASTING_REASONS:
                self._rejected[row["image_id"]] = row["reason"], row["detail"]

    @classmethod
    def open(cls, path: str | Path, spec: DecodeSpec) -> PreviousDataset:
        """Open the dataset at `path`; it is empty if it is missing, damaged or was decoded differently."""
        try:
            store = _open_with_leaks(Path(path))
            if (
                forget_ranges(store.spec) != forget_ranges(spec)
                or store.manifest.get("decoder") != DECODER_VERSION
            ):
                return cls(None, spec)
            lines = [
                f"{store.path / name}: was damaged; its pictures are decoded again"
                for name in _drop_damaged_shards(store)
            ]
            return cls(store, spec, lines)
        except (UserError, OSError, KeyError, ValueError, pa.ArrowException):
            is_there = (Path(path) / DATASET_MANIFEST_FILE).exists()
            return cls(None, spec, [f"{path}: was damaged; all pictures are decoded again"] if is_there else [])

    def find_rows(self, image_ids: pa.ChunkedArray) -> np.ndarray:
        """Return int64 (N,): the number of each image's row in the previous index, -1 for a new image."""
        if self._store is None or not len(self._index):
            return np.full(len(image_ids), -1, np.int64)
        words = to_id_words(self._index["image_id"])
        order = np.argsort(words)
        positions = np.searchsorted(words, to_id_words(image_ids), sorter=order)
        rows = order[np.minimum(positions, len(order) - 1)]
        matches = np.ones(len(rows), bool)
        for word in range(4):
            matches &= to_id_words(self._index["image_id"], word)[rows] == to_id_words(image_ids, word)
        return np.where(matches, rows, -1)

    def read_splits(self, image_ids: pa.ChunkedArray) -> np.ndarray:
        """Return the previous split of each image, uint8 (N,): a position in SPLITS, NO_SPLIT for a new image."""
        rows = self.find_rows(image_ids)
        splits = np.full(len(rows), NO_SPLIT, np.uint8)
        if (rows >= 0).any():
            splits[rows >= 0] = encode_splits(self._index["split"])[rows[rows >= 0]]
        return splits

    def iter_rejections(self, image_ids: pa.ChunkedArray) -> Iterator[tuple[int, tuple[str, str]]]:
        """Yield (position, (reason, detail)) of the images that the previous dataset rejected."""
        if self._rejected:
            known = pa.array(list(self._rejected), pa.string())
            was_rejected = pc.is_in(image_ids, value_set=known)  # type: ignore[attr-defined]
            for position in np.flatnonzero(was_rejected.to_numpy()).tolist():
                yield position, self._rejected[image_ids[position].as_py()]

    def read_facts(self, rows: np.ndarray) -> DecodedFacts:
        """Return the facts of rows of the previous index."""
        if self._store is None:
            return DecodedFacts.empty(0, self._spec.channels)
        index, channels = self._index, self._store.spec.channels
        widths, heights, phashes = (index[column].to_numpy() for column in ("width", "height", "phash"))
        sums, square_sums = (
            index[column].combine_chunks().flatten().to_numpy().reshape(-1, channels)
            for column in ("sums", "square_sums")
        )
        columns = widths, heights, phashes, sums, square_sums, self._peaks, self._float_peaks
        return DecodedFacts(*columns, {}).take_rows(rows)

    def link_shard(self, rows: np.ndarray, path: Path) -> bool:
        """Link a previous shard to `path` if these rows are exactly that shard; return whether it was linked."""
        if self._store is None or len(rows) == 0:
            return False
        number = int(self._shards[rows[0]])
        first, end = np.searchsorted(self._shards, [number, number + 1])  # the index is sorted by shard
        if end - first != len(rows) or (rows != np.arange(first, end)).any():
            return False
        if (self._rows[rows] != np.arange(len(rows))).any():
            return False
        source = self._store.path / name_pixel_shard(number)
        if len(self._store.open_shard(number)) != len(rows) or source.is_symlink():
            return False
        try:
            os.link(source, path)
        except OSError:
            return False
        if (digest := self._store.manifest.get(DIGESTS_KEY, {}).get(source.name)) is not None:
            self.linked_digests[path.name] = digest
        return True

    def copy_pixels(self, rows: np.ndarray, path: Path, offsets: np.ndarray) -> None:
        """Copy the pixels of rows of the previous dataset into a shard.

        Args:
            rows: numbers in the previous index.
            path: the shard to write to.
            offsets: where each image's pixels start in it, in bytes.
        """
        if self._store is None or len(rows) == 0:
            return
        descriptors = {
            int(number): os.open(self._store.path / name_pixel_shard(int(number)), os.O_RDONLY)
            for number in np.unique(self._shards[rows])
        }
        row_bytes = int(np.prod(self._store.spec.shape))
        with path.open("r+b") as target:
            for row, offset in zip(rows.tolist(), offsets.tolist(), strict=True):
                start = NPY_HEADER_BYTES + int(self._rows[row]) * row_bytes
                os.pwrite(target.fileno(), os.pread(descriptors[int(self._shards[row])], row_bytes, start), offset)
        for descriptor in descriptors.values():
            os.close(descriptor)
