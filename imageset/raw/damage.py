"""Damage in the raw data: files that do not have the digests of source.json.

Raw data of an earlier version has no digests there: then the bytes of each image are compared with its image_id.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imageset.exceptions import UserError
from imageset.raw.label_log import LABEL_LOG_FILE
from imageset.raw.records import RECORDS_FILE, ShardLocation, iter_record_batches
from imageset.raw.shards import RawShardReader, name_raw_shard
from imageset.raw.source_file import SOURCE_FILE, build_damaged_error, parse_source_file, read_digests
from imageset.utils.integrity.file_digests import DIGESTS_KEY, find_damaged_files, has_unchecked_files, hash_files

_SHARD_NAME = re.compile(r"shard-(\d+)\.tar")


def find_damaged_raw_files(raw_dir: Path, *, thorough: bool = False) -> list[str]:
    """Return the names of the damaged files of the raw data.

    Args:
        raw_dir: the folder; it may be missing.
        thorough: whether every byte is read; otherwise files that were changed since their last check.
    """
    if not (raw_dir / SOURCE_FILE).is_file():
        return [SOURCE_FILE] if (raw_dir / RECORDS_FILE).is_file() else []
    try:
        digests = read_digests(raw_dir)
    except UserError:  # the other files cannot be compared without it
        return [SOURCE_FILE]
    if digests:
        return find_damaged_files(raw_dir, digests, thorough=thorough)
    try:
        return _find_by_image_ids(raw_dir) if thorough else _find_short_shards(raw_dir)
    except UserError:
        return [RECORDS_FILE]


def is_whole_raw_file(raw_dir: Path, name: str, candidate: Path) -> bool:
    """Return whether a file has the bytes of the file `name` of the raw data.

    A source.json has them if its digests are those of the tables that are here: another version may be whole, too.
    Raw data of an earlier version has no digests: a shard must hold the images of the table; other files cannot be
    told from later ones, and are not accepted.
    """
    if name == SOURCE_FILE:
        return _describes_tables(candidate, raw_dir)
    if digests := read_digests(raw_dir):
        return hash_files(candidate.parent, [candidate.name])[candidate.name] == digests.get(name)
    match = _SHARD_NAME.fullmatch(name)
    if match is None:
        return False
    images = _read_locations(raw_dir).get(int(match[1]), {})
    data = candidate.read_bytes()  # 256 MB at most
    return all(
        hashlib.sha256(data[start : start + size]).hexdigest() == image_id
        for image_id, (_, start, size) in images.items()
    )


def _describes_tables(source_file: Path, raw_dir: Path) -> bool:
    """Return whether an intact source.json has the digests of the table of records and of the label log."""
    content = parse_source_file(source_file)
    if content is None:
        return False
    digests = content.get(DIGESTS_KEY, {})
    here = hash_files(raw_dir, [name for name in (RECORDS_FILE, LABEL_LOG_FILE) if (raw_dir / name).is_file()])
    return (
        not digests
        or {name: digest for name, digest in digests.items() if not _SHARD_NAME.fullmatch(name)} == here
    )


def has_changed_since_check(raw_dir: Path) -> bool:
    """Return whether a file of the raw data was changed, or came or went, since the last check."""
    return has_unchecked_files(raw_dir, read_digests(raw_dir))


def check_raw_files(raw_dir: Path) -> None:
    """Raise UserError if a file that was changed since the last check is damaged."""
    damaged = find_damaged_raw_files(raw_dir)
    if damaged:
        raise build_damaged_error(raw_dir / damaged[0])


def find_lost_shards(raw_dir: Path) -> set[int]:
    """Return the numbers of the shards whose images have to be stored again: missing or damaged ones.

    Without digests only a shard that is missing or cut short is found.
    """
    matches = map(_SHARD_NAME.fullmatch, find_damaged_raw_files(raw_dir))
    return {int(match[1]) for match in matches if match}


def digest_stored_files(raw_dir: Path, shards: set[int], names: list[str]) -> dict[str, str]:
    """Return the digests of files that stay: those of source.json, or new ones in raw data of an earlier version.

    Args:
        raw_dir: the folder.
        shards: numbers of the shards that stay.
        names: of other files that stay.

    Raises:
        UserError: a shard that has no digest yet is damaged.
    """
    wanted = [*map(name_raw_shard, sorted(shards)), *(name for name in names if (raw_dir / name).is_file())]
    digests = read_digests(raw_dir)
    if not digests and shards:
        for name in _find_by_image_ids(raw_dir):
            if name in wanted:
                raise UserError(
                    f"{raw_dir / name}: damaged; remove it, and `convoy run` stores its pictures again"
                )
    return {name: digests[name] for name in wanted if name in digests} | hash_files(
        raw_dir, [name for name in wanted if name not in digests]
    )


def _find_short_shards(raw_dir: Path) -> list[str]:
    """Return the names of the shards that are missing or end before their last image does."""
    ends: dict[int, int] = {}
    for batch in iter_record_batches(raw_dir):
        places = pa.table(
            [batch["shard"], pc.add(batch["offset"], batch["size"])],  # type: ignore[attr-defined]
            ["shard", "end"],
        )
        for row in places.drop_null().group_by("shard").aggregate([("end", "max")]).to_pylist():
            ends[row["shard"]] = max(row["end_max"], ends.get(row["shard"], 0))
    return [name_raw_shard(shard) for shard, end in sorted(ends.items()) if _measure(raw_dir, shard) < end]


def _find_by_image_ids(raw_dir: Path) -> list[str]:
    """Return the names of the shards in which an image does not have the bytes of its image_id."""
    by_shard = sorted(_read_locations(raw_dir).items())
    return [name_raw_shard(shard) for shard, images in by_shard if not _hold_images(raw_dir, images)]


def _hold_images(raw_dir: Path, images: dict[str, ShardLocation]) -> bool:
    with RawShardReader(raw_dir) as shards:
        try:
            return all(
                hashlib.sha256(shards.read(*location)).hexdigest() == image_id
                for image_id, location in images.items()
            )
        except (UserError, OSError):  # missing, cut short or not readable
            return False


def _read_locations(raw_dir: Path) -> dict[int, dict[str, ShardLocation]]:
    """Return the location of each image by image_id, for each shard."""
    by_shard: dict[int, dict[str, ShardLocation]] = defaultdict(dict)
    for batch in iter_record_batches(raw_dir):
        columns = batch.select(["image_id", "shard", "offset", "size"]).drop_null()
        for image_id, *location in zip(*(column.to_pylist() for column in columns), strict=True):
            by_shard[location[0]][image_id] = ShardLocation(*location)
    return by_shard


def _measure(raw_dir: Path, shard: int) -> int:
    """Return the size of a shard in bytes; -1 if it is missing."""
    try:
        return (raw_dir / name_raw_shard(shard)).stat().st_size
    except OSError:
        return -1
