"""Digests of the files of a data folder: in a manifest, and compared with what is on the disk.

The manifest of a folder names the SHA-256 of each of its files, and its own. To compare a file takes a reading of
all of it, so `.cache/checked/FOLDER.json` of the project keeps size, time and inode of each file that was found
whole: as long as they are the same, only a thorough check reads the file again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from imageset.utils.atomic_write import hash_file
from imageset.utils.integrity.checked_file import read_checked, write_checked

DIGESTS_KEY, OWN_DIGEST_KEY = "digests", "sha256"  # in a manifest
CHECKED_FOLDER = Path(".cache") / "checked"  # of the project
PIPELINE_FILE = "dvc.yaml"  # in the folder of a project
NUM_THREADS = 8  # hashing releases Python's global lock


def hash_manifest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's content, except for its own digest."""
    content = {name: value for name, value in manifest.items() if name != OWN_DIGEST_KEY}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def add_digests(manifest: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Return a manifest with the digests of its folder's files by name, and its own."""
    complete = {**manifest, DIGESTS_KEY: dict(sorted(digests.items()))}
    return complete | {OWN_DIGEST_KEY: hash_manifest(complete)}


def is_intact_manifest(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest has its own digest; one that was written before there were digests has none."""
    if DIGESTS_KEY not in manifest and OWN_DIGEST_KEY not in manifest:
        return True
    return manifest.get(OWN_DIGEST_KEY) == hash_manifest(manifest)


def hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of files of a folder by name; "" for a file that is missing or cannot be read."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return dict(zip(names, threads.map(_hash_or_empty, [folder / name for name in names]), strict=True))


def _hash_or_empty(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError:  # a failing disk, too
        return ""


def find_damaged_files(folder: Path, digests: Mapping[str, str], *, thorough: bool = False) -> list[str]:
    """Return the names of the files that are missing, or have other bytes than their digests.

    Args:
        folder: the folder.
        digests: the SHA-256 of each file by name.
        thorough: whether every file is read; otherwise those whose size, time or inode is not that of their last
            check. Only a thorough check finds bits that the disk has lost.
    """
    record_file = _find_record(folder)
    known = _read_record(record_file)
    before = {name: _describe_file(folder / name) for name in digests}
    is_known = {name: not thorough and known.get(name) == [before[name], digests[name]] for name in digests}
    actual = hash_files(folder, [name for name in digests if not is_known[name]])
    damaged = [name for name, digest in actual.items() if digest != digests[name]]
    record = {name: [before[name], digests[name]] for name in digests if name not in damaged}
    if record_file is not None and record != known:
        with suppress(OSError):  # read-only project, full disk: the next check reads the files again
            write_checked(record_file, (json.dumps(record, sort_keys=True) + "\n").encode())
    return damaged


def has_unchecked_files(folder: Path, digests: Mapping[str, str]) -> bool:
    """Return whether a file was changed, or came or went, since the last check of the folder."""
    present = {name: [_describe_file(folder / name), digest] for name, digest in digests.items()}
    return _read_record(_find_record(folder)) != present


def forget_checks(folder: Path) -> None:
    """Let the next check of a folder read every file, since one of them turned out to be damaged."""
    record_file = _find_record(folder)
    if record_file is not None:
        with suppress(OSError):
            record_file.unlink()


def _describe_file(path: Path) -> list[int] | None:
    """Return what changes when a file is written to: size in bytes, time in ns, inode. None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _find_record(folder: Path) -> Path | None:
    """Return the path of the record of a folder's checks; None if the folder is in no project."""
    folder = folder.resolve()
    project = next((place for place in folder.parents if (place / PIPELINE_FILE).is_file()), None)
    if project is None:
        return None
    return project / CHECKED_FOLDER / f"{'-'.join(folder.relative_to(project).parts)}.json"


def _read_record(path: Path | None) -> dict[str, Any]:
    try:
        data = None if path is None else read_checked(path, "the files are checked again", lambda line: None)
        record = json.loads(data or b"{}")
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
