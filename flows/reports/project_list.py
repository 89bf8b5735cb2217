"""`convoy status` at the top of a repository: one line for each of its projects."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.project.project import Project
from flows.reports.status import report_data, report_serving
from imageset.exceptions import UserError


def report_projects(projects: Sequence[Project]) -> str:
    """Return a table of the projects of a repository: name, folder, what serves, and how to see more."""
    rows = [(_read_name(project), _get_folder(project), _describe_serving(project)) for project in projects]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {folder:<{widths[1]}}  {serving}" for name, folder, serving in rows]
    return "\n".join([*lines, f"more about one: convoy -C {shlex.quote(rows[0][1])} status"])


def _read_name(project: Project) -> str:
    try:
        return project.read_name()
    except UserError:
        return "?"


def _get_folder(project: Project) -> str:
    return os.path.relpath(project.folder, Path.cwd())


def _describe_serving(project: Project) -> str:
    """Describe what serves, and how many problems there are."""
    problems: list[str] = []
    try:
        serving = "; ".join(_strip_labels([*report_serving(project, problems)]))
        list(report_data(project, problems))
    except UserError as error:
        serving, problems = str(error), []
    return serving + (f" ({len(problems)} open: {problems[0]})" if problems else "")


def _strip_labels(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a report without the label that each begins with."""
    yield from (line.partition(" ")[2].strip() for line in lines)
