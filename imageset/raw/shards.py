"""Tar shards of the raw data: writer and reader."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from imageset.raw.records import ShardLocation, read_records
from imageset.raw.source_file import build_damaged_error
from imageset.utils.atomic_write import sync_file

MAX_RAW_SHARD_BYTES = 256_000_000
_TAR_BLOCK_BYTES = 512  # tar's unit


def name_raw_shard(number: int) -> str:
    """Return the file name of a raw shard."""
    return f"shard-{number:05d}.tar"


def read_image_bytes(raw_dir: str | Path, image_ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (image_id, bytes) in the order of `image_ids`.

    Raises:
        KeyError: an image_id was never ingested.
        UserError: a shard is missing, or does not hold the bytes that the table says.
    """
    records = read_records(raw_dir)
    columns = (records[column].to_pylist() for column in ("image_id", "shard", "offset", "size"))
    locations = {image_id: location for image_id, *location in zip(*columns, strict=True)}
    with RawShardReader(Path(raw_dir)) as shards:
        for image_id in image_ids:
            data = shards.read(*locations[image_id])
            if hashlib.sha256(data).hexdigest() != image_id:
                raise build_damaged_error(Path(raw_dir) / name_raw_shard(locations[image_id][0]))
            yield image_id, data


class RawShardReader:
    """A reader with random access to the bytes in raw shards; a context manager that closes them."""

    def __init__(self, raw_dir: Path) -> None:
        self._raw_dir = raw_dir
        self._open: dict[int, BinaryIO] = {}

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return the bytes at a location.

        Raises:
            UserError: the shard is missing or too short.
        """
        path = self._raw_dir / name_raw_shard(shard)
        try:
            if shard not in self._open:
                self._open[shard] = path.open("rb")
            data = os.pread(self._open[shard].fileno(), size, offset)
        except FileNotFoundError:
            data = b""
        if len(data) != size:
            raise build_damaged_error(path)
        return data

    def __enter__(self) -> RawShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


class RawShardWriter:
    """A writer of shards, one after the other; each has a temporary name until it is complete.

    Args:
        folder: where the shards are written.
        first: number of the first shard.

    Attributes:
        digests: the SHA-256 of each complete shard, by name.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self._folder, self._number = folder, first
        self._file: BinaryIO | None = None
        self._size = 0
        self._hash = hashlib.sha256()
        self.digests: dict[str, str] = {}

    def add(self, member: str, data: bytes) -> ShardLocation:
        """Append one member and return the location of its bytes."""
        header = _build_tar_header(member, len(data))
        padding = -len(data) % _TAR_BLOCK_BYTES
        length = len(header) + len(data) + padding
        if self._file is not None and self._size + length + 2 * _TAR_BLOCK_BYTES > MAX_RAW_SHARD_BYTES:
            self._finish()
        if self._file is None:
            self._file, self._size, self._hash = self._build_partial_path().open("wb"), 0, hashlib.sha256()
        location = ShardLocation(self._number, self._size + len(header), len(data))
        for part in (header, data, bytes(padding)):
            self._write(part)
        self._size += length
        return location

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)

    def _build_partial_path(self) -> Path:
        return self._folder / f".{name_raw_shard(self._number)}.partial"

    def _finish(self) -> None:
        assert self._file is not None
        self._write(bytes(2 * _TAR_BLOCK_BYTES))  # the end of a tar archive
        self._file.close()
        sync_file(self._build_partial_path())
        os.replace(self._build_partial_path(), self._folder / name_raw_shard(self._number))
        self.digests[name_raw_shard(self._number)] = self._hash.hexdigest()
        self._file, self._number = None, self._number + 1

    def __enter__(self) -> RawShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if error is None:
            self._finish()
        else:
            self._file.close()
            self._build_partial_path().unlink(missing_ok=True)


def _build_tar_header(member: str, size: int) -> bytes:
    info = tarfile.TarInfo(member)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)
