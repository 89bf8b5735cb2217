"""Open problems beside the runs, such as a failed push, kept on disk until they are resolved.

.cache/troubles/NAME.json   one file for each kind of problem; it is removed when the same action next succeeds

`convoy status` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from flows.project.paths import CACHE
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.utils import timestamps
from imageset.utils.atomic_write import write_text

PROBLEMS_DIR = CACHE / "troubles"


class Problem(NamedTuple):
    """An open problem.

    Attributes:
        name: of the kind, such as "push".
        since: when it occurred first, ISO 8601.
        num_times: how often it has occurred in a row.
        message: the problem and its remedy.
    """

    name: str
    since: str
    num_times: int
    message: str


def record_problem(project: Project, name: str, message: str) -> None:
    """Record that a problem occurred, or occurred again."""
    path = _problem_path(project, name)
    earlier = _read_problem(path)
    since, times = (earlier.since, earlier.num_times + 1) if earlier else (timestamps.format_utc_now(), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"since": since, "times": times, "said": message}, ensure_ascii=False) + "\n")


def resolve_problem(project: Project, name: str) -> None:
    """Remove a problem: the action succeeded, or is no longer wanted."""
    _problem_path(project, name).unlink(missing_ok=True)


def list_problems(project: Project) -> list[Problem]:
    """Return the open problems, the oldest first."""
    paths = (project / PROBLEMS_DIR).glob("*.json")
    problems = [problem for path in paths if (problem := _read_problem(path))]
    return sorted(problems, key=lambda problem: problem.since)


@contextmanager
def track_problem(project: Project, name: str, remedy: str) -> Iterator[None]:
    """Record a UserError of this block as a problem and raise it again; resolve the problem if the block succeeds.

    Args:
        project: the project's folder.
        name: of the kind of problem.
        remedy: how to resolve it; appended to the message.
    """
    try:
        yield
    except UserError as error:
        record_problem(project, name, f"{str(error).rstrip('.')}; {remedy}")
        raise
    resolve_problem(project, name)


def _problem_path(project: Project, name: str) -> Path:
    return project / PROBLEMS_DIR / f"{name}.json"


def _read_problem(path: Path) -> Problem | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Problem(path.stem, str(values["since"]), int(values["times"]), str(values["said"]))
    except (OSError, ValueError, KeyError, TypeError):  # removed in the meantime, or damaged
        return None
