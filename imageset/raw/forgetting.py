"""Remove images from the raw data: their bytes, their rows, and the labels that people gave them."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset.raw.label_log import (
    LABEL_LOG_FILE,
    SOURCE_REPLACED,
    format_line,
    read_label_log,
    read_label_log_bytes,
)
from imageset.raw.records import RECORDS_FILE, RECORDS_SCHEMA, ROWS_AT_ONCE, read_records
from imageset.raw.replacement import finish_replacement
from imageset.raw.shards import RawShardWriter, name_raw_shard
from imageset.raw.source_file import (
    build_damaged_error,
    find_source_identity,
    read_digests,
    read_first_shards,
    write_source_file,
)
from imageset.utils.atomic_write import replace_folder
from imageset.utils.integrity.file_digests import hash_files


def forget_images(raw_dir: Path, image_ids: Collection[str]) -> int:
    """Remove images from a folder of raw data; return how many rows were removed.

    Every other image keeps its bytes, its shard and its order. The folder is replaced as a whole, so that a killed
    process leaves the former one or the new one.

    Args:
        raw_dir: the folder.
        image_ids: SHA-256 of each image.

    Raises:
        UserError: the table or a shard is damaged.
    """
    finish_replacement(raw_dir)
    records = read_records(raw_dir)
    read_label_log(raw_dir)  # says which line is damaged
    gone = pc.is_in(records["image_id"], value_set=pa.array(sorted(image_ids), pa.string()))  # type: ignore[attr-defined]
    log = read_label_log_bytes(raw_dir)
    kept_log = b"".join(filter_log_lines(log, image_ids))
    num = int(pc.sum(gone).as_py() or 0)  # type: ignore[attr-defined]
    if not num and kept_log == log:
        return 0
    touched = {int(number) for number in records.filter(gone)["shard"].unique().to_pylist()}
    kept = records.filter(pc.invert(gone))  # type: ignore[attr-defined]
    rewritten = {name_raw_shard(number) for number in touched}
    with replace_folder(raw_dir) as fresh:
        for file in raw_dir.iterdir():
            if file.name not in {*rewritten, RECORDS_FILE, LABEL_LOG_FILE} and file.is_file():
                _link_or_copy(file, fresh / file.name)
        offsets = kept["offset"].to_pylist()
        for number in touched:
            _rewrite_shard(raw_dir, fresh, number, kept, offsets)
        position = kept.schema.get_field_index("offset")
        _write_records(
            kept.set_column(position, kept.schema.field(position), pa.array(offsets, pa.int64())), fresh
        )
        if kept_log:
            (fresh / LABEL_LOG_FILE).write_bytes(kept_log)
        _update_digests(fresh, {*rewritten, RECORDS_FILE, LABEL_LOG_FILE})
    return num


def _update_digests(folder: Path, changed: Collection[str]) -> None:
    """Write the digests of changed files to source.json; an ingest of before there were digests wrote none."""
    digests = {name: digest for name, digest in read_digests(folder).items() if (folder / name).is_file()}
    identity = find_source_identity(folder)
    if not digests or identity is None:
        return
    digests |= hash_files(folder, sorted(digests.keys() & changed))
    write_source_file(folder, identity, read_first_shards(folder), digests)


def filter_log_lines(log: bytes, image_ids: Collection[str]) -> Iterator[bytes]:
    """Yield the lines of a label log without those about some images."""
    for line in log.splitlines(keepends=True):
        values = json.loads(line)
        if values.get("event") == SOURCE_REPLACED:
            dropped = [image_id for image_id in values["dropped"] if image_id not in image_ids]
            is_same = len(dropped) == len(values["dropped"])
            yield line if is_same else format_line(values | {"dropped": dropped}).encode()
        elif values.get("image_id") not in image_ids:
            yield line


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _rewrite_shard(raw_dir: Path, fresh: Path, number: int, kept: pa.Table, offsets: list[int | None]) -> None:
    """Write a shard with the images that are kept, in their order; put their new offsets into `offsets`."""
    rows = np.flatnonzero(pc.equal(kept["shard"], number).fill_null(False).to_numpy())  # type: ignore[attr-defined]
    pairs = {(int(offsets[row] or 0), int(kept["size"][row].as_py())) for row in rows.tolist()}
    moved: dict[int, int] = {}
    with (raw_dir / name_raw_shard(number)).open("rb") as file, RawShardWriter(fresh, first=number) as writer:
        for before, size in sorted(pairs):
            moved[before] = writer.add(*_read_member(file, before, size)).offset
    for row in rows.tolist():
        offsets[row] = moved[offsets[row] or 0]


def _read_member(file: BinaryIO, offset: int, size: int) -> tuple[str, bytes]:
    """Return name and bytes of a member of a tar file, given the offset of its bytes.

    Raises:
        UserError: they are not there.
    """
    file.seek(offset - tarfile.BLOCKSIZE)
    try:
        name = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "strict").name
    except tarfile.TarError:
        name = ""
    data = file.read(size)
    if not name or len(data) != size:
        raise build_damaged_error(Path(file.name))
    return name, data


def _write_records(records: pa.Table, folder: Path) -> None:
    with pq.ParquetWriter(folder / RECORDS_FILE, RECORDS_SCHEMA, compression="zstd") as file:
        for batch in records.cast(RECORDS_SCHEMA).combine_chunks().to_batches(max_chunksize=ROWS_AT_ONCE):
            file.write_batch(batch)
