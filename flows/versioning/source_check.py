"""Check a source: quickly before a flow starts, or completely for `convoy check`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.project.paths import PARAMS
from flows.project.project import Project
from flows.promotion.power import describe_planned_power
from flows.versioning import dvc_repo
from flows.versioning.data_folder_check import check_data_folder
from flows.versioning.label_tables import (
    LabelTableReport,
    check_label_options,
    plan_labels,
    report_label_table,
)
from imageset.exceptions import UserError
from imageset.utils.url_credentials import mask_url

if TYPE_CHECKING:
    from imageset.check import CheckReport
    from imageset.sources.base import Source
    from imageset.sources.label_table import LabelSource
    from imageset.utils.progress import Progress


# Of S3, Google Cloud Storage, CloudFront and Azure
SIGNATURE_PARAMETER = re.compile(
    r"(x-amz-|x-goog-|(awsaccesskeyid|googleaccessid|expires|signature|policy|key-pair-id|s[a-z]{1,2}|skoid|sktid)=)",
    re.IGNORECASE,
)

# Of lightning_modules.training.auto_network, which loads torch; a test compares them.
PRETRAINED_NETWORK, SCRATCH_NETWORK = "efficientnet_lite0", "ConvNet"

logger = console.get_logger(__name__)

_opened: dict[str, Source] = {}  # sources that `check_source` has opened, for the flow that ingests them
_opened_tables: dict[str, LabelSource] = {}  # likewise


def check_source(
    source: str | None,
    project: Project,
    replace_source: bool = False,
    labeled_by: str | None = None,
    resolve: bool = False,
) -> None:
    """Raise UserError if a source, or (None) the last one, cannot be ingested here, or params.yaml is wrong.

    A local source is opened for the check; `open_checked_source` hands it on, so that it is listed once.

    Args:
        source: the source, or a label table.
        project: the project.
        replace_source: whether the data is to be replaced.
        labeled_by: the person who labelled the pictures of a label table.
        resolve: whether the labels of a label table set aside those of other people.
    """
    from imageset.normalize.params import read_normalize_params
    from imageset.params import check_convoy_version
    from imageset.sources.factory import check_url, open_source
    from imageset.sources.remote.url import is_remote

    check_convoy_version(project / PARAMS)
    read_normalize_params(project / PARAMS)
    table = check_source_change(source, project, replace_source)
    check_label_options(table, labeled_by, resolve)
    if source is not None and table is not None:
        plan_labels(table, project, labeled_by, resolve)
        _opened_tables[source] = table
        check_data_folder(project)
        return
    source = source or dvc_repo.read_last_source(project)
    if is_remote(source):
        check_url(source)  # opening it fetches it, which the flow does
    else:
        _opened[source] = open_source(source)
    check_data_folder(project)


def check_source_change(source: str | None, project: Project, replace_source: bool) -> LabelSource | None:
    """Raise UserError if the project's data has another source or another name, unless that is what is wanted.

    Args:
        source: the source to ingest; None for the last one.
        project: the project.
        replace_source: whether the data is to be replaced.

    Returns:
        The label table, if `source` is one: it extends and corrects the project's data.
    """
    name, ingested_name = project.read_name(), project.read_ingested_name()
    if replace_source or ingested_name is None:
        return None
    if name != ingested_name:
        raise UserError(
            f"{project / PARAMS}: name is {name}, but the data was ingested as {ingested_name}; write "
            f"`name: {ingested_name}` there, or start a new dataset with --replace-source"
        )
    last = dvc_repo.read_last_source(project)
    if source is None or is_same_source(source, last, project):
        return None
    from imageset.sources.factory import open_label_table

    table = _opened_tables.pop(source, None) or open_label_table(source)
    if table is None:
        raise UserError(
            f"the pictures of this project, {name}, come from {mask_url(last)}; make a project of its own for "
            f"{mask_url(source)}: `convoy init ../other`, or let it take their place: --replace-source"
            f"{_describe_label_tables(source)}"
        )
    return table


def _describe_label_tables(source: str) -> str:
    """Return what a table needs to be one of labels, for the message about another source."""
    from imageset.sources.table import TABLE_EXTENSIONS

    if not source.partition("?")[0].lower().endswith(TABLE_EXTENSIONS):
        return ""
    return "; labels for the pictures of this project need a column image_id, as in review.csv"


def is_same_source(first: str, second: str, project: Project) -> bool:
    """Return whether two sources are the same URL, or lead to the same file or folder, with whatever options."""
    if "://" in first or "://" in second:
        return _strip_signature(mask_url(first)) == _strip_signature(mask_url(second))
    return _find_path(first, project) == _find_path(second, project)


def _find_path(source: str, project: Project) -> str:
    """Return the path of a local source, without links and options; the source need not be there any more."""
    path = project / source
    return os.path.realpath(path if path.exists() else project / source.partition("?")[0])


def _strip_signature(url: str) -> str:
    """Return a URL without the parameters of a signature, which are others each time that it is signed."""
    base, _, query = url.partition("?")
    return "&".join([base, *(part for part in query.split("&") if part and not SIGNATURE_PARAMETER.match(part))])


def open_checked_source(source: str, progress: Progress) -> Source:
    """Return the source that `check_source` has opened in this process, else open it."""
    from imageset.sources.factory import open_source

    return _opened.pop(source, None) or open_source(source, progress=progress)


def report_source(
    source: str, project: Project, report_file: Path | None = None
) -> CheckReport | LabelTableReport:
    """Return the report of `convoy check`: every image is decoded and checked; only `report_file` is written.

    The report on a label table says what an ingest of it would do.

    Raises:
        UserError: the source does not exist, params.yaml is wrong, or `report_file` cannot be written.
    """
    import json

    from imageset.params import load_section
    from imageset.utils.atomic_write import write_text

    if report_file is not None and not report_file.absolute().parent.is_dir():
        raise UserError(f"{report_file.parent}: no such folder to write {report_file.name} into; make it first")
    table, problem = None, None
    try:
        table = check_source_change(source, project, replace_source=False)
        check_data_folder(project)
    except UserError as error:
        problem = str(error)
    report: CheckReport | LabelTableReport
    if table is not None:
        report = report_label_table(table, project, problem)
    else:
        report = inspect_source(source, project)
        report.networks = list_network_candidates(load_section(project / PARAMS, "train"))
        report.project_problem = problem
        report.test_power = describe_planned_power(project, report.run_splits.get("test", 0))
    if report_file is not None:
        write_text(report_file, json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return report


def list_network_candidates(train_params: Mapping[str, Any]) -> list[str]:
    """Return the networks of which a training would take one, by the section `train` of params.yaml.

    It reads the section as it stands: loading torch, which checks it, takes seconds.
    """
    model = train_params.get("model")
    model = model if isinstance(model, Mapping) else {}
    network, weights = model.get("network", "auto"), model.get("weights")
    if isinstance(network, Mapping):
        network = network.get("class_path", "auto")
    if network != "auto":
        return [str(network)]
    if weights is None:
        return [SCRATCH_NETWORK]
    return [PRETRAINED_NETWORK, SCRATCH_NETWORK] if weights == "auto" else [PRETRAINED_NETWORK]


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
