"""Ingest: a source's pictures into data/raw, versioned by DVC."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows import console, versioning
from flows.project import RAW, find_project
from flows.retries import RETRIED
from flows.watched import WATCHED
from imageset.credentials import mask

if TYPE_CHECKING:
    from imageset.raw import IngestSummary

logger = console.get_logger(__name__)


@flow(**WATCHED)
def ingest(source: str | None = None) -> Ingested:
    """Read a source into data/raw and version it.

    Args:
        source: what `imageset.sources.open_source` takes, e.g. a folder; None for the source of last time.

    Raises:
        UserError: the source is not there or holds nothing that can be learnt from.
    """
    project = find_project()
    source = mask(source or versioning.last_source(project))
    summary = read_source(source, project)
    return version_raw(source, summary.name, project)


@dataclass(frozen=True)
class Ingested:
    """What was ingested, and whether it is new to DVC."""

    source: str
    name: str
    changed: bool


@task(**RETRIED)
def read_source(source: str, project: Path) -> IngestSummary:
    """Copy the pictures, byte for byte, into shards. Tried again when a disk, a share or a server stumbles."""
    from imageset.raw import ingest as ingest_source
    from imageset.sources import open_source

    with console.progress("ingest", logger) as progress:
        found = open_source(source, progress=progress)
        logger.info("ingest: %s", found.describe())
        summary = ingest_source(found, project / RAW, progress=progress)
    logger.info("ingest: %s", summary.describe())
    return summary


@task
def version_raw(source: str, name: str, project: Path) -> Ingested:
    """Give data/raw to DVC, with a note of where it came from."""
    changed = versioning.add_raw(project, portable(source, project), name)
    logger.info("ingest: data/raw %s", "is versioned by DVC" if changed else "is in DVC as it is, skipped")
    return Ingested(source, name, changed)


def portable(source: str, project: Path) -> str:
    """The source as it is noted: relative to the project where it lies inside, else absolute; no credentials."""
    if "://" in source:
        return mask(source)
    path = Path(os.path.abspath(source))
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)
