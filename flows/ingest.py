"""The flow `ingest`: copy the images of a source into data/raw, and version them with DVC."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.project.paths import PARAMS, RAW
from flows.project.project import Project
from flows.versioning import dvc_repo
from flows.versioning.data_folder_check import check_data_folder
from flows.versioning.forgotten_list import read_forgotten
from flows.versioning.label_tables import check_label_options, plan_labels
from flows.versioning.raw_restoration import RAW_SHARD_SUFFIX, describe_lost_file, require_whole_raw, restore_raw
from flows.versioning.source_check import check_source_change, open_checked_source
from imageset.class_names import describe_similar_names
from imageset.exceptions import UserError
from imageset.params import check_convoy_version
from imageset.utils.url_credentials import mask_url

if TYPE_CHECKING:
    from imageset.raw.ingestion import IngestSummary
    from imageset.sources.label_table import LabelSource

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
@conclude_run
def ingest(
    source: str | None = None,
    replace_source: bool = False,
    labeled_by: str | None = None,
    resolve: bool = False,
) -> IngestResult:
    """Copy the images of a source into data/raw and version them, or add the labels of a label table to them.

    Args:
        source: what `imageset.sources.factory.open_source` takes, e.g. a folder; None for the last ingested
            source. A label table extends and corrects the project's data, whose source stays what it was.
        replace_source: whether the source may be another one than the project's; its pictures then take the place
            of the former ones.
        labeled_by: the person who labelled the pictures of a label table, where its rows name nobody.
        resolve: whether the labels of a label table set aside what other people said of the same pictures.

    Raises:
        UserError: the source does not exist, or holds nothing that a model can be trained on, or DVC cannot
            version the data.
        ProjectBusy: another run is at work in this project.
    """
    project = Project.find()
    check_convoy_version(project / PARAMS)
    for name in restore_raw(project):
        if not name.endswith(RAW_SHARD_SUFFIX):  # the pictures of a shard are stored again
            raise UserError(describe_lost_file(name))
    table = check_source_change(source, project, replace_source)
    check_label_options(table, labeled_by, resolve)
    with project.lock():
        return ingest_and_version(source, table, project, replace_source, labeled_by, resolve)


def ingest_and_version(
    source: str | None,
    table: LabelSource | None,
    project: Project,
    replace_source: bool,
    labeled_by: str | None,
    resolve: bool,
) -> IngestResult:
    """Update data/raw and version it, as `ingest` describes. The caller holds the project."""
    check_data_folder(project)
    if table is not None:
        read_label_table(table, project, labeled_by, resolve)
        return version_raw(dvc_repo.read_last_source(project), project.read_name(), project)
    source = mask_url(source or dvc_repo.read_last_source(project))
    summary = read_source(source, project, replace_source)
    return version_raw(source, summary.name, project)


@dataclass(frozen=True)
class IngestResult:
    """The source that was ingested, the dataset's name, and whether data/raw changed."""

    source: str
    name: str
    changed: bool


@task(**TASK_RETRY_OPTIONS)
def read_source(source: str, project: Project, replace_source: bool = False) -> IngestSummary:
    """Copy the images, byte for byte, into shards. Prefect retries it after transient errors."""
    from imageset.raw.ingestion import ingest_source

    with console.make_progress("ingest", logger) as progress:
        opened = open_checked_source(source, progress)
        logger.info("ingest: %s", opened.describe())
        if warning := describe_similar_names(opened.classes):
            logger.warning("ingest: %s", warning)
        summary = ingest_source(
            opened,
            project / RAW,
            name=project.read_name(),
            progress=progress,
            start_anew=replace_source,
            forgotten=read_forgotten(project),
        )
    logger.info("ingest: %s", summary.describe())
    for name in summary.lost_shards:
        logger.warning("ingest: %s was missing or damaged; its pictures are stored again", RAW / name)
    return summary


@task(**TASK_RETRY_OPTIONS)
def read_label_table(table: LabelSource, project: Project, labeled_by: str | None, resolve: bool) -> None:
    """Add labels to the label log, and new images to data/raw. Prefect retries it after transient errors."""
    from imageset.raw.label_import import apply_label_plan
    from imageset.raw.replacement import finish_replacement

    finish_replacement(project / RAW)
    plan = plan_labels(table, project, labeled_by, resolve)
    apply_label_plan(plan, project / RAW)
    logger.info("ingest: %s", plan.describe())
    for warning in plan.list_warnings():
        logger.warning("ingest: %s", warning)


@task
def version_raw(source: str, name: str, project: Project) -> IngestResult:
    """Add data/raw to DVC, with the source that it came from.

    Raises:
        UserError: a file of it is damaged, and DVC cannot restore it.
    """
    from imageset.raw.damage import has_changed_since_check

    if has_changed_since_check(project / RAW):
        require_whole_raw(project, thorough=True)  # DVC would take damaged bytes for a new version
    changed = dvc_repo.add_raw(project, to_portable_source(source, project), name)
    logger.info("ingest: data/raw %s", "is versioned by DVC" if changed else "is unchanged, DVC is skipped")
    return IngestResult(source, name, changed)


def to_portable_source(source: str, project: Project) -> str:
    """Return the source as data/raw.dvc stores it: relative if it is inside the project; without credentials."""
    if "://" in source:
        return mask_url(source)
    path = Path(os.path.abspath(source))
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)
