"""One thing that `convoy forget` or `convoy gc` would do: it is shown first, and done with --yes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.project.project import Project

KILO = 1000.0


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        place: where; actions of one place are shown together.
        text: the thing, for a person.
        run: does it. It may be called again after it was killed.
        num_bytes: that become free.
    """

    place: str
    text: str
    run: Callable[[], None]
    num_bytes: int = 0

    @classmethod
    def to_remove(cls, project: Project, path: Path, text: str, place: str = "") -> Action:
        """Return the removal of a file or folder of the project."""
        name = str(path.relative_to(project.folder)) if path.is_relative_to(project.folder) else str(path)
        return cls(place or name, text, partial(remove_path, path), measure_path(path))


def remove_path(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def measure_path(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())


def format_bytes(num: float) -> str:
    """Return a number of bytes for a person: "12.3 MB"."""
    for unit in ("B", "kB", "MB"):
        if num < KILO:
            return f"{num:.0f} {unit}" if unit == "B" else f"{num:.1f} {unit}"
        num /= KILO
    return f"{num:.1f} GB"


def describe_actions(actions: Iterable[Action], with_bytes: bool) -> Iterator[str]:
    """Yield one line for each place, in the order of its first action."""
    by_place: dict[str, list[Action]] = {}
    for action in actions:
        by_place.setdefault(action.place, []).append(action)
    for place, group in by_place.items():
        texts = dict.fromkeys(action.text for action in group)
        size = f" ({format_bytes(sum(action.num_bytes for action in group))})" if with_bytes else ""
        yield f"{place}: {'; '.join(texts)}{size}"
