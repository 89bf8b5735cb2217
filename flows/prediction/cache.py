"""Cache of predictions in shards.

A shard is written by rename, under a name that identifies its images and the model that predicts them. A run that
was killed therefore resumes where it stopped, and a model version never computes the same prediction twice.

.cache/predictions/NAME-VERSION-xxxxxxxx/     one folder for each model version, engine and set of parameters
    0a1b...parquet                            a shard: the rows of some consecutive images of a source
    delivering.json                           see flows.prediction.delivery_record

A shard's name is a hash of its images (uri, image_id, error) and of the folder's key. A shard ends where the hash
of an image says so, not after a fixed number: an image that is added or removed changes only its own shard.
Every file carries its SHA-256 (imageset.utils.integrity.checked_file); those of an earlier version have none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.notifications import console
from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock, name_holder
from imageset.utils.integrity.checked_file import read_checked, write_checked

# After MIN_SHARD_IMAGES, a shard ends at an image whose hash says so (1 in MEAN_SHARD_IMAGES) or when it is full.
MIN_SHARD_IMAGES, MEAN_SHARD_IMAGES, MAX_SHARD_IMAGES = 64, 128, 512
MAX_SHARD_BYTES = 32 << 20  # of image files that are held until their shard is complete
TRANSIENT_REASONS = ("crashed", "timeout")  # reasons of failures that may not happen again
RETRIED_SUFFIX = "-retried"  # of a shard that can be looked up, but is computed again when its images come again

logger = console.get_logger(__name__)

TOP_K_TYPE = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
PREDICTION_SCHEMA = pa.schema([
    ("uri", pa.string()),  # the image's name in its source
    ("image_id", pa.string()),  # SHA-256 of its bytes; null where they could not be read
    ("label", pa.string()),
    ("probability", pa.float32()),
    ("top_k", TOP_K_TYPE),
    ("model_name", pa.string()),
    ("model_version", pa.int64()),
    ("dataset_fingerprint", pa.string()),
    ("status", pa.string()),  # ok | abstained | error
    ("error", pa.string()),  # reason code: detail
])  # fmt: skip
ANSWER_COLUMNS = ("label", "probability", "top_k", "status", "error")  # depend on an image's bytes only

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a source: its name, the hash of its bytes, or the reason why it could not be read."""

    uri: str
    image_id: str | None
    error: str | None = None


@dataclass(slots=True)
class CacheShard:
    """Some consecutive images of a source, and their rows; None for a row that is still to come."""

    name: str
    images: list[ImageRef]
    rows: list[Row | None] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [None] * len(self.images)

    @property
    def is_complete(self) -> bool:
        """Whether every image has its row."""
        return None not in self.rows


def shard_stream(images: Iterable[tuple[ImageRef, bytes]], key: str) -> Iterator[tuple[CacheShard, list[bytes]]]:
    """Cut a source into shards; the bytes of one shard at a time are held in memory.

    Args:
        images: (image, bytes) in the source's order.
        key: the key of the cache, part of every shard's name.

    Yields:
        A shard without rows, and the bytes of each of its images.
    """
    held: list[tuple[ImageRef, bytes]] = []
    num_bytes = 0
    for image, data in images:
        held.append((image, data))
        num_bytes += len(data)
        full = len(held) == MAX_SHARD_IMAGES or num_bytes >= MAX_SHARD_BYTES
        if full or (len(held) >= MIN_SHARD_IMAGES and _ends_shard(image)):
            yield _make_shard(held, key)
            held, num_bytes = [], 0
    if held:
        yield _make_shard(held, key)


def _ends_shard(image: ImageRef) -> bool:
    digest = hashlib.sha256(f"{image.uri}\0{image.image_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % MEAN_SHARD_IMAGES == 0


def _make_shard(held: list[tuple[ImageRef, bytes]], key: str) -> tuple[CacheShard, list[bytes]]:
    digest = hashlib.sha256(key.encode())
    for image, _ in held:
        digest.update(json.dumps([image.uri, image.image_id, image.error]).encode())
    name = digest.hexdigest()[:32]
    return CacheShard(name, [image for image, _ in held]), [data for _, data in held]


class PredictionCache:
    """The folder of shards of one model version.

    Args:
        folder: created when the first shard is written.
        key: a hash of everything that determines the predictions; part of every shard's name.
        multi_label: whether a label is a set of several (imageset.labels).
    """

    def __init__(self, folder: Path, key: str, multi_label: bool = False) -> None:
        self.folder, self.key, self.multi_label = folder, key, multi_label
        self._index: CacheIndex | None = None
        self.read_shard = lru_cache(64)(self._read_shard)

    @property
    def lock_path(self) -> Path:
        """The file that `cache_lock` locks; it names the process that holds it."""
        return self.folder / ".lock"

    def shard_path(self, name: str) -> Path:
        """Return the path of a shard, whether it exists or not."""
        return self.folder / f"{name}.parquet"

    def write_shard(self, shard: CacheShard) -> None:
        """Write a complete shard."""
        table, buffer = pa.Table.from_pylist(shard.rows, schema=PREDICTION_SCHEMA), io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_checked(self.shard_path(shard.name), buffer.getvalue())

    def has_shard(self, name: str) -> bool:
        """Return whether a shard is there and whole; a damaged one is removed."""
        return self._read_bytes(name) is not None

    def load_shard(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        """Return columns of a shard, or all of them; None if it is missing or was damaged."""
        data = self._read_bytes(name)
        return None if data is None else _parse_shard(data, columns)

    def _read_shard(self, name: str) -> pa.Table:
        for candidate in (name, name + RETRIED_SUFFIX):
            if (table := self.load_shard(candidate)) is not None:
                return table
        raise UserError(f"{self.shard_path(name)}: was damaged since this run began; type the command again")

    def _read_bytes(self, name: str) -> bytes | None:
        return read_checked(self.shard_path(name), "its pictures are predicted again", logger.warning, _is_shard)

    def iter_rows(self, names: Iterable[str]) -> Iterator[Row]:
        """Yield the rows of these shards, in order."""
        for name in names:
            yield from self.read_shard(name).to_pylist()

    def list_shards(self) -> list[str]:
        """Return the names of all shards, sorted."""
        return sorted(file.stem for file in self.folder.glob("*.parquet") if not file.name.startswith("."))

    def find_answer(self, image_id: str) -> Row | None:
        """Return the answer to an image of these bytes (ANSWER_COLUMNS); None if it was never predicted."""
        if self._index is None:
            self._index = CacheIndex.from_shards(self, self.list_shards())
        return self._index.find_answer(image_id)

    def mark_failures(self, names: Iterable[str]) -> None:
        """Rename the shards that hold a transient failure, so that the next run computes them again."""
        for name in names:
            if any(is_transient(error) for error in self.read_shard(name)["error"].to_pylist()):
                os.replace(self.shard_path(name), self.shard_path(name + RETRIED_SUFFIX))
        self.read_shard.cache_clear()

    @contextmanager
    def cache_lock(self, on_busy: Callable[[], None]) -> Iterator[None]:
        """Hold an exclusive lock on the cache folder; call `on_busy` first if another process holds it.

        The lock is released when the process exits.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.lock_path, on_busy) as file:
            name_holder(file)
            for leftover in self.folder.glob(".*.partial"):
                leftover.unlink()
            self._index = None
            self.read_shard.cache_clear()
            yield


class CacheIndex:
    """Answers by image_id, in 16 bytes of memory for each image.

    Args:
        cache: holds the shards.
        shard_names: names of the shards.
        ids: uint64 (N,), the first 8 bytes of each image_id.
        positions: int32 (N, 2), the number of the shard in `shard_names` and the row in it.
    """

    def __init__(
        self, cache: PredictionCache, shard_names: list[str], ids: np.ndarray, positions: np.ndarray
    ) -> None:
        self._cache, self._shard_names = cache, shard_names
        order = np.argsort(ids, kind="stable")
        self._ids, self._positions = ids[order], positions[order]

    @classmethod
    def from_shards(cls, cache: PredictionCache, shard_names: list[str]) -> CacheIndex:
        """Index the images in some shards; transient failures are left out."""
        ids, positions = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int32)]
        for number, name in enumerate(shard_names):
            columns = cache.load_shard(name, ["image_id", "error"])
            if columns is None:
                continue
            rows = [row for row, error in enumerate(columns["error"].to_pylist()) if not is_transient(error)]
            image_ids = columns["image_id"].to_pylist()
            rows = [row for row in rows if image_ids[row] is not None]
            ids.append(np.array([_to_short_id(image_ids[row]) for row in rows], np.uint64))
            positions.append(np.array([(number, row) for row in rows], np.int32).reshape(-1, 2))
        return cls(cache, shard_names, np.concatenate(ids), np.concatenate(positions))

    def __len__(self) -> int:
        return len(self._ids)

    def find_answer(self, image_id: str) -> Row | None:
        """Return the answer to these bytes (ANSWER_COLUMNS); None if there is none."""
        at = int(np.searchsorted(self._ids, _to_short_id(image_id)))
        while at < len(self._ids) and self._ids[at] == _to_short_id(image_id):
            shard, number = (int(value) for value in self._positions[at])
            row: Row = self._cache.read_shard(self._shard_names[shard]).slice(number, 1).to_pylist()[0]
            if row["image_id"] == image_id:
                return {name: row[name] for name in ANSWER_COLUMNS}
            at += 1
        return None


def _parse_shard(data: bytes, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(pa.BufferReader(data), columns=columns, schema=PREDICTION_SCHEMA)


def _is_shard(data: bytes) -> bool:
    """Return whether an earlier version wrote a shard, without a digest; it must at least be readable."""
    try:
        return data.startswith(b"PAR1") and _parse_shard(data) is not None
    except (OSError, ValueError):
        return False


def _to_short_id(image_id: str) -> np.uint64:
    return np.uint64(int(image_id[:16], 16))


def is_transient(error: str | None) -> bool:
    """Return whether a row's error may not happen again."""
    return error is not None and error.partition(":")[0] in TRANSIENT_REASONS
