"""DVC's cache that the projects of one git repository share, named in each project's `.dvc/config`.

DVC knows only an address relative to the project's `.dvc`, which is another one after the project was moved inside
its repository or out of it.
"""

from __future__ import annotations

import os
from configparser import ConfigParser, Error
from pathlib import Path

from flows.notifications import console
from imageset.utils.atomic_write import PARTIAL_SUFFIX, write_text
from lightning_modules.tracking.local_store.location import find_git_top

logger = console.get_logger(__name__)

OWN_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"
SECTION, KEY = "cache", "dir"


def find_shared_cache(project: Path) -> Path | None:
    """Return the folder of the cache that a project shares; None for a project at the top, which has its own."""
    top = find_git_top(project)
    if top is None or top == project:
        return None
    return top / ".dvc" / "cache" if (top / ".dvc").is_dir() else top / ".cache" / "dvc"


def write_config(project: Path) -> Path | None:
    """Write the `.dvc/config` of a new project; return the cache that it shares, if it does."""
    cache = find_shared_cache(project)
    shared = "" if cache is None else f"[{SECTION}]\n    {KEY} = {_make_relative(cache, project)}\n"
    write_text(project / ".dvc" / "config", OWN_CONFIG + shared)
    return cache


def is_config_incomplete(project: Path) -> bool:
    """Return whether a process was killed in `write_config`: the file is that of `dvc init`, which is empty."""
    config = project / ".dvc" / "config"
    is_empty = not config.exists() or config.stat().st_size == 0
    return is_empty and config.with_name(f".{config.name}{PARTIAL_SUFFIX}").exists()


def mend_config(project: Path) -> None:
    """Name the shared cache anew if the project was moved: the address in `.dvc/config` leads nowhere then."""
    path = project / ".dvc" / "config"
    named = _read_cache_dir(path)
    if named is None or Path(named).is_absolute() or (path.parent / named).exists():
        return
    cache = find_shared_cache(project)
    if (cache is None or cache.is_dir()) and os.access(path.parent, os.W_OK):
        _replace_cache_dir(path, named, None if cache is None else _make_relative(cache, project))
        where = "in .dvc/cache" if cache is None else str(cache)
        logger.info("dvc: the project was moved; its cache is %s now", where)


def _make_relative(cache: Path, project: Path) -> str:
    return Path(os.path.relpath(cache, project / ".dvc")).as_posix()


def _read_cache_dir(path: Path) -> str | None:
    config = ConfigParser(interpolation=None, strict=False)
    try:
        config.read(path, encoding="utf-8")
    except (Error, UnicodeDecodeError):  # DVC itself says what is wrong
        return None
    return config.get(SECTION, KEY, fallback=None)


def _replace_cache_dir(path: Path, named: str, cache: str | None) -> None:
    """Replace the value of `dir`, or remove the line; all other lines stay."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [
        line if [part.strip() for part in line.split("=", 1)] != [KEY, named]
        else "" if cache is None else line.replace(named, cache)
        for line in lines
    ]  # fmt: skip
    write_text(path, "".join(changed))
