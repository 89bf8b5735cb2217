"""Ingest: a source's pictures into data/raw, versioned by DVC."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows.notifications import console
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.project.paths import RAW, find_project
from flows.versioning import dvc_repo
from imageset.utils.url_credentials import mask_url

if TYPE_CHECKING:
    from imageset.raw.ingestion import IngestSummary

logger = console.get_logger(__name__)


@flow(**FLOW_OPTIONS)
def ingest(source: str | None = None) -> IngestResult:
    """Read a source into data/raw and version it.

    Args:
        source: what `imageset.sources.factory.open_source` takes, e.g. a folder; None for the source of last time.

    Raises:
        UserError: the source is not there or holds nothing that can be learnt from.
    """
    project = find_project()
    source = mask_url(source or dvc_repo.read_last_source(project))
    summary = read_source(source, project)
    return version_raw(source, summary.name, project)


@dataclass(frozen=True)
class IngestResult:
    """What was ingested, and whether it is new to DVC."""

    source: str
    name: str
    changed: bool


@task(**TASK_RETRY_OPTIONS)
def read_source(source: str, project: Path) -> IngestSummary:
    """Copy the pictures, byte for byte, into shards. Tried again when a disk, a share or a server stumbles."""
    from imageset.raw.ingestion import ingest_source as ingest_source
    from imageset.sources.factory import open_source

    with console.make_progress("ingest", logger) as progress:
        found = open_source(source, progress=progress)
        logger.info("ingest: %s", found.describe())
        summary = ingest_source(found, project / RAW, progress=progress)
    logger.info("ingest: %s", summary.describe())
    return summary


@task
def version_raw(source: str, name: str, project: Path) -> IngestResult:
    """Give data/raw to DVC, with a note of where it came from."""
    changed = dvc_repo.add_raw(project, to_portable_source(source, project), name)
    logger.info("ingest: data/raw %s", "is versioned by DVC" if changed else "is in DVC as it is, skipped")
    return IngestResult(source, name, changed)


def to_portable_source(source: str, project: Path) -> str:
    """The source as it is noted: relative to the project where it lies inside, else absolute; no credentials."""
    if "://" in source:
        return mask_url(source)
    path = Path(os.path.abspath(source))
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)
