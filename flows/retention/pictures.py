"""The pictures that `convoy forget` is given, and their content where it still is."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from flows.project.paths import NORMALIZED, RAW
from flows.project.project import Project
from flows.retention.stores.dataset_versions import Holdings, read_rows
from flows.retention.stores.object_store import ObjectStore, find_bytes
from flows.versioning.forgotten_list import read_forgotten
from imageset.exceptions import UserError
from imageset.raw.label_log import IMAGE_ID
from imageset.raw.records import RECORDS_FILE, iter_record_batches
from imageset.raw.shards import RawShardReader
from imageset.raw.source_file import find_source_identity
from imageset.store.format import INDEX_FILE, LEAKS_FILE, name_pixel_shard


def resolve_pictures(project: Project, words: Iterable[str], here: Path) -> dict[str, bytes | None]:
    """Return the image_ids that words name, each with the bytes of the file, if the word is one.

    Args:
        project: the project.
        words: image_ids, paths of files, or the names of pictures in the source.
        here: the folder that paths begin at.

    Raises:
        UserError: a word is none of these.
    """
    found: dict[str, bytes | None] = {}
    names = []
    for word in words:
        if IMAGE_ID.fullmatch(word.lower()):
            found.setdefault(word.lower(), None)
        elif (here / word).is_file():
            data = _read_file(here / word)
            found[hashlib.sha256(data).hexdigest()] = data
        elif (here / word).is_dir():
            raise UserError(f"{word}: a folder; name its files, or list them in a file for --list")
        else:
            names.append(word)
    for image_id in _find_by_name(project, names):
        found.setdefault(image_id, None)
    return found


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _find_by_name(project: Project, names: Sequence[str]) -> set[str]:
    if not names:
        return set()
    found: dict[str, set[str]] = {name: set() for name in names}
    if find_source_identity(project / RAW) is not None:
        for batch in iter_record_batches(project / RAW):
            uris, image_ids = batch["uri"].to_pylist(), batch["image_id"].to_pylist()
            for uri, image_id in zip(uris, image_ids, strict=True):
                if uri in found and image_id is not None:
                    found[uri].add(image_id)
    if unknown := [name for name, image_ids in found.items() if not image_ids]:
        raise UserError(
            f"{unknown[0]}: neither an image_id (64 hexadecimal digits), nor a file, nor the name of a picture in "
            f"{RAW}; its image_id is `sha256sum FILE`"
        )
    return set().union(*found.values())


def check_known(
    project: Project, given: dict[str, bytes | None], holdings: Holdings, contents: Collection[bytes]
) -> None:
    """Raise UserError for an image_id that nothing knows, which is probably mistyped."""
    digests = {hashlib.sha256(content).hexdigest() for content in contents}
    unknown = {image_id for image_id, data in given.items() if data is None} - digests - read_forgotten(project)
    if unknown and not (holdings.tables or holdings.objects):
        raise UserError(
            f"{min(unknown)}: no picture of this project, now or in a version that DVC still has; give its file "
            "instead, and it is looked for everywhere and never ingested"
        )


def collect_contents(
    project: Project, stores: list[ObjectStore], given: dict[str, bytes | None], holdings: Holdings
) -> set[bytes]:
    """Return the bytes of pictures, and their pixels in every version that can be read."""
    contents = {data for data in given.values() if data is not None}
    contents |= _read_raw(project, given)
    contents |= _read_pixels(project, given)
    for places in (holdings.encoded, holdings.pixels):
        for object_id, start, size in places:
            data = find_bytes(stores, object_id, start, size)
            if data is not None and len(data) == size:
                contents.add(data)
    return contents


def _read_raw(project: Project, image_ids: Collection[str]) -> set[bytes]:
    rows = read_rows(project / RAW / RECORDS_FILE, ["image_id", "shard", "offset", "size"], image_ids) or []
    with RawShardReader(project / RAW) as shards:
        return {shards.read(row["shard"], row["offset"], row["size"]) for row in rows}


def _read_pixels(project: Project, image_ids: Collection[str]) -> set[bytes]:
    contents = set()
    for name in (INDEX_FILE, LEAKS_FILE):
        for row in read_rows(project / NORMALIZED / name, ["image_id", "shard", "row"], image_ids) or []:
            try:
                pixels = np.load(project / NORMALIZED / name_pixel_shard(row["shard"]), mmap_mode="r")
                contents.add(pixels[row["row"]].tobytes())
            except (OSError, ValueError, IndexError):
                continue
    return contents
