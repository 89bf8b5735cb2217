"""Protection of dvc.lock, which DVC writes in place: after a kill or on a failing disk, a part of it is left.

DVC then refuses every command. So its text is copied to `.cache/dvc.lock` before DVC runs, and restored from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows.project.paths import CACHE
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text

LOCK_FILE = Path("dvc.lock")
CONFLICT = "<<<<<<< "
COPY = CACHE / "dvc.lock"  # empty if there was none


@contextmanager
def protect_dvc_lock(folder: Path) -> Iterator[None]:
    """Let DVC run within this block; dvc.lock is whole before it, and after it.

    Args:
        folder: the folder of dvc.yaml.

    Raises:
        UserError: as of `restore_dvc_lock`.
    """
    restore_dvc_lock(folder)
    write_text(folder / COPY, _read(folder / LOCK_FILE))
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a full disk: the next call does it
            restore_dvc_lock(folder)
        raise


def restore_dvc_lock(folder: Path) -> bool:
    """Restore dvc.lock as it was before DVC was last called, if only a part of it is left; return whether it was.

    Raises:
        UserError: it is damaged, and there is no copy of it, or git has left its marks of a conflict in it.
    """
    path, copy = folder / LOCK_FILE, folder / COPY
    if not path.exists() or _is_whole(_read(path)):
        return False
    if not copy.exists() or CONFLICT in _read(path):
        raise UserError(
            f"{path}: not a dvc.lock; `git checkout dvc.lock` restores the committed one, without it all stages "
            "run again"
        )
    text = _read(copy)
    if _is_whole(text):
        write_text(path, text)
    else:
        path.unlink()
    return True


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _is_whole(text: str) -> bool:
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    stages = document.get("stages") if isinstance(document, dict) else None
    return isinstance(stages, dict) and all(_is_whole_stage(stage) for stage in stages.values())


def _is_whole_stage(stage: Any) -> bool:
    if not isinstance(stage, dict) or "cmd" not in stage:
        return False
    lists = [stage[key] for key in ("deps", "outs") if key in stage]
    return all(isinstance(items, list) and all(_is_whole_item(item) for item in items) for items in lists)


def _is_whole_item(item: Any) -> bool:
    return isinstance(item, dict) and "path" in item and len(item) > 1  # a digest at least
