"""What went wrong beside a run and is not mended yet: noted durably, so that `convoy status` names it.

.cache/troubles/NAME.json   one a kind of trouble; it goes when the same thing next goes well
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows.project.paths import CACHE
from imageset.exceptions import UserError
from imageset.utils import timestamps
from imageset.utils.atomic_write import write_text

PROBLEMS_DIR = CACHE / "troubles"


class Problem(NamedTuple):
    """Since when, how often in a row, what is wrong, and how to mend it."""

    name: str
    since: str  # ISO 8601
    num_times: int
    message: str


def record_problem(project: Path, name: str, said: str) -> None:
    """Something went wrong (again)."""
    before = _read_problem(_problem_path(project, name))
    since, times = (before.since, before.num_times + 1) if before else (timestamps.format_utc_now(), 1)
    path = _problem_path(project, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"since": since, "times": times, "said": said}, ensure_ascii=False) + "\n")


def resolve_problem(project: Path, name: str) -> None:
    """It went well, or is not wanted any more."""
    _problem_path(project, name).unlink(missing_ok=True)


def list_problems(project: Path) -> list[Problem]:
    """What is not mended, the oldest first."""
    found = [one for path in (project / PROBLEMS_DIR).glob("*.json") if (one := _read_problem(path))]
    return sorted(found, key=lambda one: one.since)


@contextmanager
def track_problem(project: Path, name: str, remedy: str) -> Iterator[None]:
    """Note a UserError of this block and raise it again; the block's success is the end of the trouble.

    Args:
        how: how to mend it.
    """
    try:
        yield
    except UserError as error:
        record_problem(project, name, f"{str(error).rstrip('.')}; {remedy}")
        raise
    resolve_problem(project, name)


def _problem_path(project: Path, name: str) -> Path:
    return project / PROBLEMS_DIR / f"{name}.json"


def _read_problem(path: Path) -> Problem | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Problem(path.stem, str(found["since"]), int(found["times"]), str(found["said"]))
    except (OSError, ValueError, KeyError, TypeError):  # gone since, or damaged: it is no owner of anything
        return None
