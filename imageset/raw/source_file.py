"""The file source.json of the raw data: which source they come from, and the digests of their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text
from imageset.utils.integrity.file_digests import (
    DIGESTS_KEY,
    add_digests,
    forget_checks,
    hash_files,
    is_intact_manifest,
)

SOURCE_FILE = "source.json"
RECORDS_FILE, LABEL_LOG_FILE = TABLES = "records.parquet", "label_log.jsonl"


def read_source_identity(raw_dir: str | Path) -> dict[str, str]:
    """Return the "name" and "kind" of the ingested source.

    Raises:
        UserError: nothing was ingested.
    """
    identity = find_source_identity(Path(raw_dir))
    if identity is None:
        raise UserError(f"{raw_dir}: holds no pictures yet; run `convoy run FOLDER`")
    return {"name": identity["name"], "kind": identity["kind"]}


def is_multi_label(raw_dir: str | Path) -> bool:
    """Return whether an image's label is a set of names (imageset.labels).

    Raises:
        UserError: nothing was ingested.
    """
    read_source_identity(raw_dir)
    return bool((find_source_identity(Path(raw_dir)) or {}).get("multi_label"))


def read_first_shards(raw_dir: str | Path) -> list[int]:
    """Return the number of the first shard of each ingest that stored new bytes, ascending."""
    try:
        first_shards = json.loads((Path(raw_dir) / SOURCE_FILE).read_text()).get("first_shards")
    except (OSError, ValueError, AttributeError):
        return [0]
    return sorted({int(number) for number in first_shards}) if first_shards else [0]


def find_source_identity(raw_dir: Path) -> dict[str, Any] | None:
    """Return the "name", the "kind" and, if it is true, "multi_label" of the source; None if nothing was ingested.

    Raises:
        UserError: the folder holds other files, or source.json is damaged.
    """
    if not (raw_dir / SOURCE_FILE).is_file():
        foreign = [] if not raw_dir.is_dir() else [file for file in raw_dir.iterdir() if file.name[0] != "."]
        if foreign or (raw_dir.exists() and not raw_dir.is_dir()):
            raise UserError(
                f"{raw_dir}: holds {foreign[0].name if foreign else 'a file'} but no {SOURCE_FILE}; "
                "move it away, only an ingest writes to this folder"
            )
        return None
    identity = _read_source_file(raw_dir)
    try:
        multi_label = {"multi_label": True} if identity.get("multi_label") else {}
        return {"name": str(identity["name"]), "kind": str(identity["kind"])} | multi_label
    except KeyError:
        raise build_damaged_error(raw_dir / SOURCE_FILE) from None


def read_digests(raw_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of each other file of the raw data by name; {} if an earlier version wrote it, or nobody.

    Raises:
        UserError: source.json is damaged.
    """
    if not (raw_dir / SOURCE_FILE).is_file():
        return {}
    return dict(_read_source_file(raw_dir).get(DIGESTS_KEY, {}))


def check_raw_file(raw_dir: Path, name: str) -> None:
    """Raise UserError if a file of the raw data does not have its digest, or is missing though it has one."""
    digest = read_digests(raw_dir).get(name)
    if digest is not None and hash_files(raw_dir, [name])[name] != digest:
        raise build_damaged_error(raw_dir / name)


def _read_source_file(raw_dir: Path) -> dict[str, Any]:
    """Return the content of source.json.

    Raises:
        UserError: it is damaged.
    """
    content = parse_source_file(raw_dir / SOURCE_FILE)
    if content is None:
        raise build_damaged_error(raw_dir / SOURCE_FILE)
    return content


def parse_source_file(path: Path) -> dict[str, Any] | None:
    """Return the content of a source.json; None if it does not have its own digest, or is no mapping."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and is_intact_manifest(content) else None


def build_damaged_error(path: Path) -> UserError:
    """Return the error for a missing or damaged file of the raw data; the next check reads all of them."""
    forget_checks(path.parent)
    return UserError(f"{path}: missing or damaged; `convoy run` restores it")


def write_source_file(
    folder: Path, identity: dict[str, Any], first_shards: list[int], digests: Mapping[str, str]
) -> None:
    """Write source.json, with the digests of all files of the raw data.

    Args:
        folder: the folder that it is written to.
        identity: name and kind of the source, and whether it is multi-label.
        first_shards: number of the first shard of each ingest.
        digests: of the shards, and of files that are not in this folder, by name; those of TABLES are added if
            they are here.
    """
    here = [name for name in TABLES if (folder / name).is_file()]
    content = identity | {"first_shards": sorted(set(first_shards))}
    content = add_digests(content, {**digests, **hash_files(folder, here)})
    write_text(folder / SOURCE_FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")
