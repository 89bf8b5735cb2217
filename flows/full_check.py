"""The full check: does everything that the nights rest on still hold? Once a week, as prefect.yaml says.

It changes nothing. What it finds is one line a finding, with what mends it; any finding makes the run Failed.
.cache/full_check.json keeps those of the last one for `convoy status`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task

from flows.notifications import console
from flows.orchestration import crash_recovery
from flows.orchestration.artifacts import publish_markdown
from flows.orchestration.flow_options import FLOW_OPTIONS
from flows.orchestration.timeouts import time_limit
from flows.project.paths import FULL_CHECK_FILE, find_project, read_dataset_field
from flows.promotion import gates, ledger, model_registry
from flows.promotion.model_registry import CHAMPION
from flows.versioning import dvc_repo, source_check
from imageset.exceptions import UserError
from imageset.utils import timestamps
from imageset.utils.atomic_write import write_text
from imageset.utils.text import format_count

logger = console.get_logger(__name__)


@dataclass(frozen=True)
class CheckResult:
    """What was looked at, and what is wrong with it."""

    findings: dict[str, list[str]]  # what was looked at -> what is wrong; [] where all is well

    @property
    def problems(self) -> list[str]:
        return [f"{name}: {one}" for name, found in self.findings.items() for one in found]

    def __str__(self) -> str:
        head = f"full check: {format_count(len(self.findings), 'thing')} looked at, {len(self.problems)} wrong"
        return "\n".join([head, *(f"  {one}" for one in self.problems)])

    def to_markdown(self) -> str:
        """The same as a page."""
        rows = [f"| {name} | {'<br>'.join(found) or 'well'} |" for name, found in self.findings.items()]
        return "\n".join(["# Full check", "", "| what | found |", "| --- | --- |", *rows, ""])


@flow(**FLOW_OPTIONS)
def full_check(timeout_h: float | None = None) -> CheckResult:
    """Look at the data, the stages, the source, the ledger, killed runs, and every model that serves.

    Args:
        timeout_h: hours after which it stops.

    Raises:
        UserError: something is wrong, each in a line of its own, or it took too long.
    """
    project = find_project()
    with time_limit(timeout_h, "the full check"):
        checked = CheckResult({name: look_at(name, project) for name in CHECKS})
    write_text(
        project / FULL_CHECK_FILE,
        json.dumps({"time": timestamps.utc_now_iso(), "findings": checked.findings}) + "\n",
    )
    publish_markdown(checked.to_markdown(), "full-check", str(checked).splitlines()[0])
    logger.info(str(checked))
    if checked.problems:
        raise UserError(str(checked))
    return checked


@task(task_run_name="{name}")
def look_at(name: str, project: Path) -> list[str]:
    """One check; what keeps it from looking is a finding, too."""
    try:
        return list(CHECKS[name](project))
    except (UserError, OSError) as error:
        return [" ".join(str(error).split())]


def find_data_problems(project: Path) -> Iterator[str]:
    """Every file that DVC tracks still has the bytes it was tracked with."""
    for path, expected, found in dvc_repo.find_damaged_files(project):
        what = "is not there" if found is None else f"has other bytes (MD5 {found[:12]}, not {expected[:12]})"
        yield f"{path} {what}; `dvc pull --force` or `dvc checkout --force` brings it back"


def find_stage_problems(project: Path) -> Iterator[str]:
    """Nothing was changed since the stages ran."""
    for name, changes in dvc_repo.find_changed_stages(project).items():
        yield f"{name} is out of date ({', '.join(changes)}); `convoy run` brings it up to date"


def find_source_problems(project: Path) -> Iterator[str]:
    """The source can still be ingested."""
    report = source_check.inspect_source(dvc_repo.read_last_source(project), project)
    if report.stop_reason:
        yield f"{report.source}: `convoy run` would stop: {report.stop_reason}"


def find_ledger_problems(project: Path) -> Iterator[str]:
    """The ledger is unbroken, every line has its end, and what serves is what it says."""
    entries = ledger.read_ledger(project)
    for entry in ledger.find_unfinished(entries):
        yield (f"line {entry['number']}, about {entry['model']} version {entry['version']}, has no end; "
               "the next promote, predict or rollback carries it out")  # fmt: skip
    client = model_registry.connect_registry(project)
    done = ledger.find_completed(entries)
    for model in dict.fromkeys(entry["model"] for entry in done):
        says = [entry for entry in done if entry["model"] == model][-1]["after"]
        now = model_registry.read_aliases(client, model)
        for alias in model_registry.ALIASES:
            if now.get(alias) != says.get(alias):
                yield (f"{model}: {alias} is version {now.get(alias)} in MLflow, {says.get(alias)} in the ledger: "
                       "somebody moved it by hand; `convoy promote RUN --override REASON` sets both")  # fmt: skip


def find_champion_problems(project: Path) -> Iterator[str]:
    """Every model that serves has the bytes that were registered, and names a picture."""
    client = model_registry.connect_registry(project)
    serving = [one.name for one in client.search_registered_models() if CHAMPION in (one.aliases or {})]
    name = read_dataset_field(project, "name")
    if name is not None and name not in serving:
        yield f"no version of {name} serves; `convoy promote` registers the last training"
    for model in serving:
        version = model_registry.find_champion_version(client, model)
        try:
            if version is not None:
                gates.check_model_predicts(version.uri)
        except (UserError, OSError) as error:
            said = " ".join(str(error).split())
            yield f"{version}: {said}; `convoy rollback --model {model}` lets the one before it serve"


def find_killed_runs(project: Path) -> Iterator[str]:
    """No run is noted whose process is gone."""
    for note in crash_recovery.find_dead_processes(project):
        yield f"{note} was killed and could not be closed; call `convoy run` to close it"


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "data": find_data_problems,
    "stages": find_stage_problems,
    "source": find_source_problems,
    "ledger": find_ledger_problems,
    "models": find_champion_problems,
    "killed runs": find_killed_runs,
}
