"""The flow `full_check`: verify the data, the stages, the source, the ledger and the models. Deployment `weekly`.

It changes nothing. Each finding is one line with its remedy, and any finding makes the run Failed.
.cache/full_check.json keeps the findings of the last check for `convoy status`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prefect import flow, task

from flows.notifications import console
from flows.orchestration import crash_recovery
from flows.orchestration.artifacts import publish_markdown
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.orchestration.timeouts import time_limit
from flows.project.paths import FULL_CHECK_FILE, MANIFEST, NORMALIZED, RAW
from flows.project.project import Project
from flows.promotion import ledger, model_registry, registry_records
from flows.promotion.gates.scoring import check_model_predicts
from flows.promotion.model_registry import CHAMPION
from flows.reports.registry_agreement import describe_missing
from flows.versioning import dvc_repo, restoration, source_check
from imageset.exceptions import UserError
from imageset.utils import timestamps
from imageset.utils.atomic_write import write_text
from imageset.utils.text import escape_markdown, format_count

logger = console.get_logger(__name__)


@dataclass(frozen=True)
class CheckResult:
    """The findings of one full check.

    Attributes:
        findings: name of a check -> its problems; an empty list if there are none.
    """

    findings: dict[str, list[str]]

    @property
    def problems(self) -> list[str]:
        """All problems, each with the name of its check."""
        return [f"{name}: {problem}" for name, problems in self.findings.items() for problem in problems]

    def __str__(self) -> str:
        num_problems = format_count(len(self.problems), "problem")
        head = f"full check: {format_count(len(self.findings), 'check')}, {num_problems}"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])

    def to_markdown(self) -> str:
        """Format the findings as a Markdown page."""
        rows = [
            f"| {escape_markdown(name)} | {'<br>'.join(map(escape_markdown, problems)) or 'none'} |"
            for name, problems in self.findings.items()
        ]
        return "\n".join(["# Full check", "", "| check | problems |", "| --- | --- |", *rows, ""])


@flow(**FLOW_OPTIONS)
@conclude_run
def full_check(timeout_h: float | None = None) -> CheckResult:
    """Check the data, the stages, the source, the ledger, crashed runs, and every champion.

    Args:
        timeout_h: hours after which the check stops.

    Raises:
        UserError: there are problems, each in its own line, or the time limit passed.
    """
    project = Project.find()
    with time_limit(timeout_h, "the full check"):
        result = CheckResult({name: run_check(name, project) for name in CHECKS})
    write_text(
        project / FULL_CHECK_FILE,
        json.dumps({"time": timestamps.format_utc_now(), "findings": result.findings}) + "\n",
    )
    publish_markdown(result.to_markdown(), "full-check", str(result).splitlines()[0])
    logger.info(str(result))
    if result.problems:
        raise UserError(str(result))
    return result


@task(name="look_at", task_run_name="{name}")
def run_check(name: str, project: Project) -> list[str]:
    """Run one check; an error that prevents it is a finding, too."""
    try:
        return list(CHECKS[name](project))
    except (UserError, OSError) as error:
        return [" ".join(str(error).split())]


def find_data_problems(project: Project) -> Iterator[str]:
    """Yield each file whose content is not the one that DVC tracks, or that was written; every byte is read."""
    from imageset.raw.damage import find_damaged_raw_files

    reported = set()
    for file in dvc_repo.find_damaged_files(project):
        reported.add(file.path)
        changed = f"has changed (MD5 {(file.actual_md5 or '')[:12]}, not {file.md5[:12]})"
        yield f"{file.path} {'is missing' if file.actual_md5 is None else changed}; {_describe_remedy(file)}"
    versioned = {(RAW / name).as_posix() for name in find_damaged_raw_files(project / RAW, thorough=True)}
    versioned |= {(NORMALIZED / name).as_posix() for name in _find_damaged_dataset_files(project)}
    for path in sorted(versioned - reported):
        yield f"{path} is damaged, and DVC has versioned it so; {_describe_remedy_of_path(path)}"


def _find_damaged_dataset_files(project: Project) -> list[str]:
    from imageset.store.reader import find_damaged_dataset_files

    return find_damaged_dataset_files(project / NORMALIZED) if (project / MANIFEST).exists() else []


def _describe_remedy(file: dvc_repo.DamagedFile) -> str:
    if not file.is_cached:
        return _describe_remedy_of_path(file.path) or (
            f"remove it, and `dvc checkout {file.target}` restores it" if file.has_copy
            else f"`dvc repro -f {file.target}` makes it again, or `dvc pull --force {file.target}` restores it"
        )  # fmt: skip
    if file.has_copy:
        return f"the project has it whole: remove it, and `dvc commit -f {file.target}` stores it again"
    return "remove it, then run the full check again: it says what restores the file in the project"


def _describe_remedy_of_path(path: str) -> str:
    if path.startswith(f"{RAW.as_posix()}/"):
        return "`convoy run` restores it"
    return "`dvc repro -f normalize` makes it again" if path.startswith(f"{NORMALIZED.as_posix()}/") else ""


def find_stage_problems(project: Project) -> Iterator[str]:
    """Yield each stage that is out of date."""
    for name, changes in dvc_repo.find_changed_stages(project).items():
        yield f"{name} is out of date ({', '.join(changes)}); `convoy run` brings it up to date"


def find_source_problems(project: Project) -> Iterator[str]:
    """Yield the reason why the last source could not be ingested again."""
    report = source_check.inspect_source(dvc_repo.read_last_source(project), project)
    if report.stop_reason:
        yield f"{report.source}: `convoy run` would stop: {report.stop_reason}"


def find_ledger_problems(project: Project) -> Iterator[str]:
    """Yield unfinished entries of the ledger, and aliases in MLflow that differ from it."""
    entries = ledger.read_ledger(project)
    for entry in ledger.find_unfinished(entries):
        yield (f"line {entry['number']}, about {entry['model']} version {entry['version']}, is unfinished; "
               "the next promote, predict or rollback completes it")  # fmt: skip
    client = restoration.open_registry(project)
    done = ledger.find_completed(entries)
    for model in dict.fromkeys(entry["model"] for entry in done):
        missing = registry_records.find_missing(entries, registry_records.read_records(client, model))
        if missing:
            yield describe_missing(model, len(missing))
            continue
        in_ledger = [entry for entry in done if entry["model"] == model][-1]["after"]
        in_mlflow = model_registry.read_aliases(client, model)
        for alias in model_registry.ALIASES:
            if in_mlflow.get(alias) != in_ledger.get(alias):
                yield (f"{model}: {alias} is version {in_mlflow.get(alias)} in MLflow, but "
                       f"{in_ledger.get(alias)} in the ledger: "
                       "somebody moved it by hand; `convoy promote RUN --override REASON` sets both")  # fmt: skip


def find_champion_problems(project: Project) -> Iterator[str]:
    """Yield each champion that cannot be loaded, has changed, or cannot predict an image."""
    client = restoration.open_registry(project)
    serving = [model.name for model in client.search_registered_models() if CHAMPION in (model.aliases or {})]
    name = project.read_dataset_field("name")
    if name is not None and name not in serving:
        yield f"no version of {name} serves; `convoy promote` registers the last training"
    for model in serving:
        version = model_registry.find_champion_version(client, model)
        try:
            if version is not None:
                check_model_predicts(version.uri)
        except (UserError, OSError) as error:
            message = " ".join(str(error).split())
            yield f"{version}: {message}; `convoy rollback --model {model}` makes the previous version serve"


def find_killed_runs(project: Project) -> Iterator[str]:
    """Yield each run whose process died and that is not closed."""
    for record in crash_recovery.find_dead_processes(project):
        yield f"{record} was killed and could not be closed; run `convoy run` to close it"


CHECKS: dict[str, Callable[[Project], Iterator[str]]] = {
    "data": find_data_problems,
    "stages": find_stage_problems,
    "source": find_source_problems,
    "ledger": find_ledger_problems,
    "models": find_champion_problems,
    "killed runs": find_killed_runs,
}
