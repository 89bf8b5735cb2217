"""Check a source: quickly before a flow starts, or completely for `convoy check`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project.paths import PARAMS
from flows.project.project import Project
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from imageset.utils.url_credentials import mask_url

if TYPE_CHECKING:
    from imageset.check import CheckReport
    from imageset.sources.base import Source
    from imageset.utils.progress import Progress


# Of S3, Google Cloud Storage, CloudFront and Azure
SIGNATURE_PARAMETER = re.compile(
    r"(x-amz-|x-goog-|(awsaccesskeyid|googleaccessid|expires|signature|policy|key-pair-id|s[a-z]{1,2}|skoid|sktid)=)",
    re.IGNORECASE,
)

logger = console.get_logger(__name__)

_opened: dict[str, Source] = {}  # sources that `check_source` has opened, for the flow that ingests them


def check_source(source: str | None, project: Project, replace_source: bool = False) -> None:
    """Raise UserError if a source, or (None) the last one, cannot be ingested, or params.yaml is wrong.

    A local source is opened for the check; `open_checked_source` hands it on, so that it is listed once.
    """
    from imageset.normalize.params import read_normalize_params
    from imageset.params import check_convoy_version
    from imageset.sources.factory import check_url, open_source
    from imageset.sources.remote.url import is_remote

    check_convoy_version(project / PARAMS)
    read_normalize_params(project / PARAMS)
    check_source_change(source, project, replace_source)
    source = source or dvc_repo.read_last_source(project)
    if is_remote(source):
        check_url(source)  # opening it fetches it, which the flow does
    else:
        _opened[source] = open_source(source)


def check_source_change(source: str | None, project: Project, replace_source: bool) -> None:
    """Raise UserError if the project's data has another source or another name, unless that is what is wanted.

    Args:
        source: the source to ingest; None for the last one.
        project: the project.
        replace_source: whether the data is to be replaced.
    """
    name, ingested_name = project.read_name(), project.read_ingested_name()
    if replace_source or ingested_name is None:
        return
    if name != ingested_name:
        raise UserError(
            f"{project / PARAMS}: name is {name}, but the data was ingested as {ingested_name}; write "
            f"`name: {ingested_name}` there, or start a new dataset with --replace-source"
        )
    last = dvc_repo.read_last_source(project)
    if source is not None and not is_same_source(source, last, project):
        raise UserError(
            f"the pictures of this project, {name}, come from {mask_url(last)}; make a project of its own for "
            f"{mask_url(source)}: `convoy init ../other`, or let it take their place: --replace-source"
        )


def is_same_source(first: str, second: str, project: Project) -> bool:
    """Return whether two sources are the same URL, or lead to the same file or folder."""
    if "://" in first or "://" in second:
        return _strip_signature(mask_url(first)) == _strip_signature(mask_url(second))
    return os.path.realpath(project / first) == os.path.realpath(project / second)


def _strip_signature(url: str) -> str:
    """Return a URL without the parameters of a signature, which are others each time that it is signed."""
    base, _, query = url.partition("?")
    return "&".join([base, *(part for part in query.split("&") if part and not SIGNATURE_PARAMETER.match(part))])


def open_checked_source(source: str, progress: Progress) -> Source:
    """Return the source that `check_source` has opened in this process, else open it."""
    from imageset.sources.factory import open_source

    return _opened.pop(source, None) or open_source(source, progress=progress)


def report_source(source: str, project: Project, json_file: Path | None = None) -> str:
    """Return the text of `convoy check`: every image is decoded and checked; only `json_file` is written."""
    import json

    from imageset.utils.atomic_write import write_text

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"{json_file.parent}: no such folder to write {json_file.name} into; make it first")
    report = inspect_source(source, project)
    if json_file is not None:
        write_text(json_file, json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return report.to_text()


def inspect_source(source: str, project: Project) -> CheckReport:
    """Decode and check every image of a source by the rules of params.yaml, without writing anything."""
    from imageset import check
    from imageset.normalize.params import read_normalize_params
    from imageset.splits.split_rule import SplitRule

    params = read_normalize_params(project / PARAMS)
    with console.make_progress("check", logger) as progress:
        return check.check_source(
            source,
            max_pixels=params["max_pixels"],
            max_reject_fraction=params["max_reject_fraction"],
            near_duplicate_bits=params["near_duplicate_bits"],
            on_leak=params["on_leak"],
            min_test_per_class=params["min_test_per_class"],
            rule=SplitRule(**params["split"]),
            progress=progress,
        )
