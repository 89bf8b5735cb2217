"""The dataset that stands at the place already: what it has decoded need not be decoded again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset.decoding.decoder import DECODER_VERSION
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.normalize.tasks import DecodedFacts
from imageset.store.format import LEAKS_FILE, NPY_HEADER_BYTES, REJECTED_FILE, name_pixel_shard
from imageset.store.reader import ImageStore, read_index
from imageset.utils.arrow import to_id_words

# Of the index: what is taken over, and what ImageStore.open compares with the manifest.
REUSED_COLUMNS = (
    *("image_id", "shard", "row", "label", "split"),
    *("width", "height", "phash", "sums", "square_sums"),
)
# Refusals that another look at the same bytes would not change ("unsupported" may: a decoder was installed).
_LASTING_REASONS = frozenset({"empty", "not_an_image", "truncated", "undecodable", "too_small", "bomb"})


def _open_with_leaks(path: Path) -> ImageStore:
    """The dataset with what is wanted of its index, and of leaks.parquet: those pixels lie in the shards too."""
    store = ImageStore.open(path, REUSED_COLUMNS)
    if (path / LEAKS_FILE).is_file():
        both = pa.concat_tables([store.index, read_index(path / LEAKS_FILE, REUSED_COLUMNS)])
        store.index = both.sort_by([("shard", "ascending"), ("row", "ascending")]).combine_chunks()
    return store


class PreviousDataset:
    """An earlier dataset of the same decoder and decode parameters, or nothing."""

    def __init__(self, store: ImageStore | None, spec: DecodeSpec) -> None:
        self._store, self._spec = store, spec
        self._rejected: dict[str, tuple[str, str]] = {}
        if store is None:
            return
        self._index = store.index
        self._shards, self._rows = (self._index[column].to_numpy() for column in ("shard", "row"))
        for row in pq.ParquetFile(store.path / REJECTED_FILE).read().to_pylist():
            if row["image_id"] is not None and row["reason"] in _LASTING_REASONS:
                self._rejected[row["image_id"]] = row["reason"], row["detail"]

    @classmethod
    def open(cls, path: str | Path, spec: DecodeSpec) -> PreviousDataset:
        """What can be taken over from the dataset at `path`; nothing where it is broken or decoded otherwise."""
        try:
            store = _open_with_leaks(Path(path))
            if store.spec != spec or store.manifest.get("decoder") != DECODER_VERSION:
                return cls(None, spec)
            return cls(store, spec)
        except (UserError, OSError, KeyError, ValueError, pa.ArrowException):
            return cls(None, spec)

    def find_rows(self, image_ids: pa.ChunkedArray) -> np.ndarray:
        """int64 (N,): number of each picture's row in the earlier index, -1 where it is new."""
        if self._store is None or not len(self._index):
            return np.full(len(image_ids), -1, np.int64)
        mine = to_id_words(self._index["image_id"])
        order = np.argsort(mine)
        places = np.searchsorted(mine, to_id_words(image_ids), sorter=order)
        rows = order[np.minimum(places, len(order) - 1)]
        same = np.ones(len(rows), bool)
        for word in range(4):
            same &= to_id_words(self._index["image_id"], word)[rows] == to_id_words(image_ids, word)
        return np.where(same, rows, -1)

    def iter_rejections(self, image_ids: pa.ChunkedArray) -> Iterator[tuple[int, tuple[str, str]]]:
        """(position, (reason, detail)) of the pictures that were refused earlier."""
        if self._rejected:
            known = pa.array(list(self._rejected), pa.string())
            found = pc.is_in(image_ids, value_set=known)  # type: ignore[attr-defined]
            for position in np.flatnonzero(found.to_numpy()).tolist():
                yield position, self._rejected[image_ids[position].as_py()]

    def read_facts(self, rows: np.ndarray) -> DecodedFacts:
        """What is known of rows of the earlier index."""
        if self._store is None:
            return DecodedFacts.empty(0, self._spec.channels)
        index, channels = self._index, self._store.spec.channels
        widths, heights, phashes = (index[column].to_numpy() for column in ("width", "height", "phash"))
        sums, square_sums = (
            index[column].combine_chunks().flatten().to_numpy().reshape(-1, channels)
            for column in ("sums", "square_sums")
        )
        return DecodedFacts(widths, heights, phashes, sums, square_sums, {}).take_rows(rows)

    def link_shard(self, rows: np.ndarray, path: Path) -> bool:
        """Where these rows are exactly one earlier shard, let it stand at `path` too; else return False."""
        if self._store is None or len(rows) == 0:
            return False
        number = int(self._shards[rows[0]])
        first, end = np.searchsorted(self._shards, [number, number + 1])  # the index is in the shards' order
        if end - first != len(rows) or (rows != np.arange(first, end)).any():
            return False
        if (self._rows[rows] != np.arange(len(rows))).any():
            return False
        source = self._store.path / name_pixel_shard(number)
        if len(self._store.shard(number)) != len(rows) or source.is_symlink():
            return False
        try:
            os.link(source, path)
        except OSError:
            return False
        return True

    def copy_pixels(self, rows: np.ndarray, path: Path, offsets: np.ndarray) -> None:
        """Write the pixels of earlier rows into a shard at these offsets."""
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
