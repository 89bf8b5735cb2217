"""Restoration of damaged files of data/raw from DVC's cache or remote, before anything is made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flows.notifications import console
from flows.project.paths import RAW
from flows.project.project import Project
from flows.versioning import dvc_repo
from flows.versioning.git_repo import run_git
from imageset.exceptions import UserError
from imageset.utils.atomic_write import replace_file

logger = console.get_logger(__name__)

RAW_SHARD_SUFFIX = ".tar"
POINTER = f"{RAW.as_posix()}.dvc"


def restore_raw(project: Project, *, thorough: bool = False) -> list[str]:
    """Restore the damaged files of data/raw that DVC has whole, and complete what a killed ingest began.

    Args:
        project: the project, which no other process writes to.
        thorough: whether every file is read; otherwise those that were changed since their last check.

    Returns:
        The names of the files that are still damaged.
    """
    from imageset.raw.damage import find_damaged_raw_files
    from imageset.raw.replacement import finish_replacement
    from imageset.raw.source_file import SOURCE_FILE

    folder = project / RAW
    finish_replacement(folder)
    damaged = find_damaged_raw_files(folder, thorough=thorough)
    if damaged == [SOURCE_FILE] and _restore_file(project, SOURCE_FILE):
        damaged = find_damaged_raw_files(folder, thorough=thorough)
    return [name for name in damaged if not _restore_file(project, name)]


def require_whole_raw(project: Project, *, thorough: bool = False) -> None:
    """Restore data/raw like `restore_raw`.

    Raises:
        UserError: a file is still damaged.
    """
    damaged = restore_raw(project, thorough=thorough)
    if damaged:
        raise UserError(describe_lost_file(damaged[0]))


def describe_lost_file(name: str) -> str:
    """Return the message about a damaged file of data/raw of which DVC has no whole copy."""
    path = RAW / name
    remedy = "`convoy run` stores its pictures again from the source"
    if not name.endswith(RAW_SHARD_SUFFIX):
        remedy = (
            f"`dvc checkout --force {POINTER}` gives the last version that DVC has of all files, or move {RAW} "
            "away and ingest anew: `convoy run SOURCE`; keep label_log.jsonl, the labels that people gave"
        )
    return f"{path}: missing or damaged, and neither DVC's cache nor its remote has it whole; {remedy}"


def _restore_file(project: Project, name: str) -> bool:
    """Put back a file of data/raw from DVC; return whether it is whole now."""
    cache = dvc_repo.find_cache_dir(project) / "files" / "md5"
    for version in _list_versions(project):
        md5 = dict(dvc_repo.list_tracked_files(cache, version)).get(name)
        cached = None if md5 is None else cache / md5[:2] / md5[2:]
        if cached is not None and _copy_if_whole(project, name, cached):
            logger.warning("ingest: %s was damaged; restored from DVC's cache", RAW / name)
            return True
        if cached is not None and dvc_repo.compute_md5(cached) not in (None, md5):
            with suppress(OSError):
                cached.unlink()  # DVC would take it for whole, and not fetch it
    return _fetch_file(project, name)


def _fetch_file(project: Project, name: str) -> bool:
    if dvc_repo.find_default_remote(project) is None:
        return False
    for version in _list_versions(project):
        try:
            with dvc_repo.fetch_output(project, version, name) as fetched:
                if _copy_if_whole(project, name, fetched):
                    logger.warning("ingest: %s was damaged; restored from DVC's remote", RAW / name)
                    return True
        except UserError as error:
            logger.info("ingest: %s is not on DVC's remote: %s", RAW / name, error)
    return False


def _list_versions(project: Project) -> Iterator[str]:
    """Yield the MD5 of each version of data/raw: of data/raw.dvc here, then in git's history, the newest first."""
    seen: set[str] = set()
    for text in _iter_pointers(project):
        md5 = dvc_repo.parse_pointer(text)
        if md5 is not None and md5 not in seen:
            seen.add(md5)
            yield md5


def _iter_pointers(project: Project) -> Iterator[str]:
    if (project / POINTER).is_file():
        yield (project / POINTER).read_text(encoding="utf-8")
    log = run_git(project.folder, "log", "--all", "--format=%H", "--", POINTER, allow_failure=True)
    for commit in log.split():
        yield run_git(project.folder, "show", f"{commit}:./{POINTER}", allow_failure=True)


def _copy_if_whole(project: Project, name: str, candidate: Path) -> bool:
    """Copy a file into data/raw if it has the digest that source.json names; return whether it was copied."""
    from imageset.raw.damage import is_whole_raw_file

    if not candidate.is_file() or not is_whole_raw_file(project / RAW, name, candidate):
        return False
    with replace_file(project / RAW / name) as temporary:
        shutil.copyfile(candidate, temporary)
    return True
