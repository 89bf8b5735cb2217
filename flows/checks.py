"""What is plainly wrong with a command, said before anything is started for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows import console, versioning
from flows.project import PARAMS
from imageset.errors import UserError

if TYPE_CHECKING:
    from imageset.check import CheckReport

logger = console.get_logger(__name__)


def check_run(run_id: str, project: Path) -> None:
    """Raise UserError if a run cannot be promoted, whatever it is compared with."""
    from flows import registry
    from lightning_modules import outbox

    outbox.check_sent(project, run_id)
    registry.model_of_run(registry.finished_run(registry.connect(project), run_id))


def check_source(source: str | None, project: Path) -> None:
    """Raise UserError if a source, or (None) the one of last time, cannot be ingested, or params.yaml is wrong."""
    from imageset.normalize import read_params
    from imageset.remote import check_remote, is_remote
    from imageset.sources import open_source

    read_params(project / PARAMS)
    source = source or versioning.last_source(project)
    if is_remote(source):
        check_remote(source)  # to open it is to fetch it, and that is for the flow
    else:
        open_source(source)


def check_sweep(project: Path, trials: int | None, processes: int | None) -> None:
    """Raise UserError if params.yaml: sweep is wrong, or there is nothing to train on."""
    from flows import study
    from flows.project import dataset_name, stage_params
    from imageset.params import load_section

    given = {name: value for name, value in (("trials", trials), ("processes", processes)) if value is not None}
    params, where = stage_params(project, "sweep") | given, f"{project / PARAMS}: sweep"
    study.check(params, where)
    study.space(params, load_section(project / PARAMS, "train"), where)
    dataset_name(project)


def report(source: str, project: Path, json_file: Path | None = None) -> str:
    """What `convoy check` prints: every picture decoded and judged; nothing but json_file is written."""
    import json

    from imageset.atomic import write_text

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"{json_file.parent}: no such folder to write {json_file.name} into; make it first")
    found = look_at_source(source, project)
    if json_file is not None:
        write_text(json_file, json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n")
    return found.text()


def look_at_source(source: str, project: Path) -> CheckReport:
    """Every picture of a source decoded and judged, by the rules of params.yaml; nothing is written."""
    from imageset import check
    from imageset.normalize import read_params
    from imageset.split import SplitRule

    params = read_params(project / PARAMS)
    with console.progress("check", logger) as progress:
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


def check_prediction(source: str, out: str) -> None:
    """Raise UserError where `source` holds no pictures, or `out` cannot be written."""
    from flows.pictures import open_pictures
    from flows.tables import ENDINGS
    from imageset.remote import check_remote, is_remote

    target = Path(out)
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name the file to write, e.g. {target / 'predictions.parquet'}")
    if target.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{target}: predictions are written as Parquet, CSV or JSON lines; name a file that ends in .parquet, "
            ".csv or .jsonl"
        )
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder to write {target.name} into; make it first")
    if is_remote(source):
        check_remote(source)
    else:
        open_pictures(source)


def check_monitor(source: str, pictures: str | None) -> None:
    """Raise UserError where there is nothing to compare."""
    from flows.pictures import open_pictures
    from flows.predict_rows import is_table
    from imageset.remote import check_remote, is_remote

    if pictures is not None and not is_table(source):
        raise UserError(f"{source}: not a table that `convoy predict` wrote; --pictures belongs to such a table")
    for one in [pictures] if is_table(source) else [source]:
        if one is not None and is_remote(one):
            check_remote(one)
        elif one is not None:
            open_pictures(one)
