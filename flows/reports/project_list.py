"""`convoy status` at the top of a repository: one line for each of its projects."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.project.project import Project
from flows.reports.status import LABEL_BY_KEY, find_name, read_status


@dataclass(frozen=True)
class ProjectListResult:
    """The projects of a repository."""

    projects: Sequence[Project]

    def __str__(self) -> str:
        """Return a table: name, folder, what serves, and how to see more."""
        rows = [(find_name(each) or "?", _get_folder(each), _describe_serving(each)) for each in self.projects]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:<{widths[0]}}  {folder:<{widths[1]}}  {serving}" for name, folder, serving in rows]
        return "\n".join([*lines, f"more about one: convoy -C {shlex.quote(rows[0][1])} status"])

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON: `projects`, for each what `convoy status --json` prints in it."""
        return {"projects": [read_status(project).to_dict() for project in self.projects]}


def _get_folder(project: Project) -> str:
    return os.path.relpath(project.folder, Path.cwd())


def _describe_serving(project: Project) -> str:
    """Describe what serves, and how many problems there are."""
    status = read_status(project)
    serving = "; ".join(line.text for line in status.lines if line.label == LABEL_BY_KEY["serving"])
    return serving + (f" ({len(status.problems)} open: {status.problems[0]})" if status.problems else "")
