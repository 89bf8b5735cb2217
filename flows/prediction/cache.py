"""Predictions in parts: each is written by rename under a name that says what it answers, so that a run that was
killed goes on where it stopped, and what a model version was asked before is not computed again.

.cache/predictions/NAME-VERSION-xxxxxxxx/     one folder for each model version, engine and set of parameters
    0a1b...parquet                            a part: some pictures that follow each other in a source, answered
    delivered.txt                             the parts whose rows stand in a table that was written

A part's name is a hash of its pictures (uri, image_id) and of the folder's. Parts end where the hash of a picture
says so, not after so many: a picture that is added or removed changes its own part and no other one.
"""

from __future__ import annotations

import fcntl
import hashlib
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

from imageset.utils.atomic_write import hash_file, replace_file, sync_file, write_text

# A part ends after MIN_PICTURES as soon as a picture's hash says so (one in MEAN_PICTURES), or when it is full.
MIN_SHARD_IMAGES, MEAN_SHARD_IMAGES, MAX_SHARD_IMAGES = 64, 128, 512
MAX_SHARD_BYTES = 32 << 20  # of picture files that are held until their part is complete
TRANSIENT_REASONS = ("crashed", "timeout")  # reasons that another try may cure
RETRIED_SUFFIX = "-retried"  # ending of a part's name: it is looked up, but made anew when its pictures come again

TOP_K_TYPE = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))
PREDICTION_SCHEMA = pa.schema([
    ("uri", pa.string()),  # the picture's name in its source
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
ANSWER_COLUMNS = ("label", "probability", "top_k", "status", "error")  # what a model says of a picture's bytes

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One picture on its way through the network: who it is, and why it could not be read."""

    uri: str
    image_id: str | None
    error: str | None = None


@dataclass(slots=True)
class CacheShard:
    """Some pictures that follow each other, and the rows that are known by now."""

    name: str
    images: list[ImageRef]
    rows: list[Row | None] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [None] * len(self.images)

    @property
    def is_complete(self) -> bool:
        """Whether every picture has its row."""
        return None not in self.rows


def shard_stream(pictures: Iterable[tuple[ImageRef, bytes]], key: str) -> Iterator[tuple[CacheShard, list[bytes]]]:
    """Cut a source into parts; `key` says what answers them. The bytes of one part are held, not more."""
    held: list[tuple[ImageRef, bytes]] = []
    num_bytes = 0
    for picture, data in pictures:
        held.append((picture, data))
        num_bytes += len(data)
        full = len(held) == MAX_SHARD_IMAGES or num_bytes >= MAX_SHARD_BYTES
        if full or (len(held) >= MIN_SHARD_IMAGES and _ends_shard(picture)):
            yield _make_shard(held, key)
            held, num_bytes = [], 0
    if held:
        yield _make_shard(held, key)


def _ends_shard(picture: ImageRef) -> bool:
    digest = hashlib.sha256(f"{picture.uri}\0{picture.image_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % MEAN_SHARD_IMAGES == 0


def _make_shard(held: list[tuple[ImageRef, bytes]], key: str) -> tuple[CacheShard, list[bytes]]:
    digest = hashlib.sha256(key.encode())
    for picture, _ in held:
        digest.update(json.dumps([picture.uri, picture.image_id, picture.error]).encode())
    name = digest.hexdigest()[:32]
    return CacheShard(name, [picture for picture, _ in held]), [data for _, data in held]


class PredictionCache:
    """The folder of one model version's parts.

    Args:
        folder: made when the first part is written.
        key: what answers them; part of every part's name.
        multi_label: whether a label in them is the set of several (imageset.labels).
    """

    def __init__(self, folder: Path, key: str, multi_label: bool = False) -> None:
        self.folder, self.key, self.multi_label = folder, key, multi_label
        self._index: CacheIndex | None = None
        self.read_shard = lru_cache(64)(self._read_shard)

    def shard_path(self, name: str) -> Path:
        """Where a part lies, or will."""
        return self.folder / f"{name}.parquet"

    def write_shard(self, part: CacheShard) -> None:
        """Write a part that is whole."""
        table = pa.Table.from_pylist(part.rows, schema=PREDICTION_SCHEMA)
        with replace_file(self.shard_path(part.name)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    def _read_shard(self, name: str) -> pa.Table:
        path = self.shard_path(name) if self.shard_path(name).is_file() else self.shard_path(name + RETRIED_SUFFIX)
        return pq.read_table(path, schema=PREDICTION_SCHEMA, memory_map=False)

    def iter_rows(self, names: Iterable[str]) -> Iterator[Row]:
        """The rows of some parts, one after the other."""
        for name in names:
            yield from self.read_shard(name).to_pylist()

    def list_shards(self) -> list[str]:
        """Every part there is, in a fixed order."""
        return sorted(file.stem for file in self.folder.glob("*.parquet") if not file.name.startswith("."))

    def find_answer(self, image_id: str) -> Row | None:
        """What a picture of these bytes was answered before, if it was."""
        if self._index is None:
            self._index = CacheIndex.from_shards(self, self.list_shards())
        return self._index.find_answer(image_id)

    def mark_failures(self, names: Iterable[str]) -> None:
        """Let the next run make parts anew that hold a failure which another try may cure."""
        for name in names:
            if any(_is_transient(error) for error in self.read_shard(name)["error"].to_pylist()):
                os.replace(self.shard_path(name), self.shard_path(name + RETRIED_SUFFIX))
        self.read_shard.cache_clear()

    @contextmanager
    def alone(self, wait: Callable[[], None]) -> Iterator[None]:
        """Nobody else writes here meanwhile; `wait` is called if somebody does. The kernel lets go of the lock
        when its holder dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            for leftover in self.folder.glob(".*.partial"):
                leftover.unlink()
            self._index = None
            self.read_shard.cache_clear()
            yield

    # ---- what was delivered --------------------------------------------------------------------------------

    def load_written_index(self) -> CacheIndex:
        """The pictures that stand in a table which was written."""
        try:
            names = (self.folder / "delivered.txt").read_text(encoding="utf-8").split()
        except FileNotFoundError:
            names = []
        found = {one for name in names for one in (name, name + RETRIED_SUFFIX) if self.shard_path(one).is_file()}
        return CacheIndex.from_shards(self, sorted(found))

    def commit_output(self, temporary: Path, out: Path, names: list[str]) -> None:
        """Put a finished table in its place and note its parts. Killed in between, the next call knows which of
        the two was done by the table's digest."""
        note = {"out": str(out.absolute()), "sha256": hash_file(temporary), "names": names}
        write_text(self.folder / "delivering.json", json.dumps(note))
        sync_file(temporary)
        os.replace(temporary, out)
        self.finish_commit()

    def finish_commit(self) -> tuple[Path | None, list[str]]:
        """Note what was put in its place by a run that was killed before it noted that itself; returns where the
        table stands and its parts, or (None, [])."""
        path = self.folder / "delivering.json"
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None, []
        out, ledger = Path(note["out"]), self.folder / "delivered.txt"
        done = out.is_file() and hash_file(out) == note["sha256"]
        if done:
            before = ledger.read_text(encoding="utf-8").split() if ledger.is_file() else []
            write_text(ledger, "".join(f"{name}\n" for name in sorted({*before, *note["names"]})))
        path.unlink()
        return (out, note["names"]) if done else (None, [])


class CacheIndex:
    """Pictures that were answered: found by their image_id, 14 bytes of memory for each."""

    def __init__(self, parts: PredictionCache, names: list[str], ids: np.ndarray, places: np.ndarray) -> None:
        self._parts, self._names = parts, names
        order = np.argsort(ids, kind="stable")
        self._ids, self._places = ids[order], places[order]  # uint64, [(part, row)]

    @classmethod
    def from_shards(cls, parts: PredictionCache, names: list[str]) -> CacheIndex:
        """The pictures in some parts; failures that another try may cure are not among them."""
        ids, places = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int32)]
        for number, name in enumerate(names):
            columns = pq.read_table(parts.shard_path(name), columns=["image_id", "error"])
            rows = [n for n, error in enumerate(columns["error"].to_pylist()) if not _is_transient(error)]
            texts = columns["image_id"].to_pylist()
            rows = [row for row in rows if texts[row] is not None]
            ids.append(np.array([_to_short_id(texts[row]) for row in rows], np.uint64))
            places.append(np.array([(number, row) for row in rows], np.int32).reshape(-1, 2))
        return cls(parts, names, np.concatenate(ids), np.concatenate(places))

    def __len__(self) -> int:
        return len(self._ids)

    def find_answer(self, image_id: str) -> Row | None:
        """What was answered for these bytes."""
        at = int(np.searchsorted(self._ids, _to_short_id(image_id)))
        while at < len(self._ids) and self._ids[at] == _to_short_id(image_id):
            part, row = (int(number) for number in self._places[at])
            found: Row = self._parts.read_shard(self._names[part]).slice(row, 1).to_pylist()[0]
            if found["image_id"] == image_id:
                return {name: found[name] for name in ANSWER_COLUMNS}
            at += 1
        return None


def _to_short_id(image_id: str) -> np.uint64:
    return np.uint64(int(image_id[:16], 16))


def _is_transient(error: str | None) -> bool:
    return error is not None and error.partition(":")[0] in TRANSIENT_REASONS
