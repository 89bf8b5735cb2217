"""Label tables in a project: who labelled, what an import would do, and the report of `convoy check`."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.project.paths import RAW
from flows.project.project import Project
from flows.versioning.forgotten_list import read_forgotten
from flows.versioning.git_repo import run_git
from imageset.exceptions import UserError
from imageset.utils.url_credentials import mask_url

if TYPE_CHECKING:
    from imageset.raw.label_import import LabelPlan
    from imageset.sources.label_table import LabelSource


@dataclass(frozen=True)
class LabelTableReport:
    """The report of a check: the outcome of an ingest of a label table.

    Attributes:
        source: the table.
        plan: what would be written; None if the ingest would stop.
        stop_reason: why it would stop, or None.
    """

    source: str
    plan: LabelPlan | None
    stop_reason: str | None

    def __str__(self) -> str:
        lines = []
        if self.plan is not None:
            lines = [self.plan.describe(), *(f"warning: {warning}" for warning in self.plan.list_warnings())]
        if self.stop_reason:
            return "\n".join([*lines, f"convoy ingest would stop: {self.stop_reason}"])
        if self.plan is not None and not self.plan.entries:
            return "\n".join([*lines, "convoy ingest would change nothing"])
        return "\n".join([*lines, "convoy ingest would add these labels to the project's pictures"])

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON.

        source: the table. stops: why an ingest would stop, or null. labels: null then, else num_labels, num_new,
        num_relabelled, num_confirmed, num_unchanged, num_unlabelled, unknown (reason by row), new_classes (number
        by name) and disputes (who says what, by picture).
        """
        plan = self.plan
        labels = plan and {
            "num_labels": plan.num_labels,
            "num_new": len(plan.new_images),
            "num_relabelled": plan.num_relabelled,
            "num_confirmed": plan.num_confirmed,
            "num_unchanged": plan.num_unchanged,
            "num_unlabelled": plan.num_unlabelled,
            "unknown": plan.unknown,
            "new_classes": dict(plan.new_classes),
            "disputes": plan.disputes,
        }
        return {"source": self.source, "labels": labels, "stops": self.stop_reason}


def check_label_options(table: LabelSource | None, labeled_by: str | None, resolve: bool) -> None:
    """Raise UserError if options of label tables are given for something else, or name nobody."""
    if table is None and (labeled_by is not None or resolve):
        option = "--by" if labeled_by is not None else "--resolve"
        raise UserError(f"{option} is only for a table of labels with a column image_id, such as review.csv")
    if labeled_by is not None and not labeled_by.strip():
        raise UserError("--by '': name the person who labelled the pictures")


def plan_labels(table: LabelSource, project: Project, labeled_by: str | None, resolve: bool) -> LabelPlan:
    """Compare a label table with the project's data; nothing is written.

    Raises:
        UserError: the table cannot be imported.
    """
    from imageset.raw.label_import import plan_label_import
    from imageset.raw.source_file import is_multi_label

    return plan_label_import(
        table.iter_rows(is_multi_label(project / RAW)),
        project / RAW,
        name_table(table.label, project),
        labeled_by or find_annotator(project),
        resolves=resolve,
        forgotten=read_forgotten(project),
    )


def report_label_table(table: LabelSource, project: Project, problem: str | None) -> LabelTableReport:
    """Return what an ingest of a label table would do.

    Args:
        table: the table.
        project: the project.
        problem: why nothing can be ingested in this project, or None.
    """
    try:
        plan = plan_labels(table, project, None, resolve=False)
    except UserError as error:
        return LabelTableReport(table.label, None, problem or str(error))
    return LabelTableReport(table.label, plan, problem)


def find_annotator(project: Project) -> str:
    """Return the name of the person at work: git's `user.name`, else the login name."""
    name = run_git(project.folder, "config", "user.name", allow_failure=True).strip()
    try:
        return name or getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def name_table(label: str, project: Project) -> str:
    """Return a table's name for messages and the log: its path in the project, else its folder and name."""
    if "://" in label:
        return mask_url(label)
    path = Path(os.path.abspath(Path(label).expanduser()))
    if path.is_relative_to(project.folder):
        return path.relative_to(project.folder).as_posix()
    return "/".join(path.parts[-2:]).lstrip("/")
