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

from flows import checks, console, evidence, ledger, recovery, registry, versioning
from flows.pages import publish
from flows.project import FULL_CHECK, find_project, said_of_dataset
from flows.registry import CHAMPION
from flows.timeouts import at_most
from flows.watched import WATCHED
from imageset.atomic import write_text
from imageset.errors import UserError
from imageset.words import count

logger = console.get_logger(__name__)


@dataclass(frozen=True)
class Checked:
    """What was looked at, and what is wrong with it."""

    findings: dict[str, list[str]]  # what was looked at -> what is wrong; [] where all is well

    @property
    def wrong(self) -> list[str]:
        return [f"{name}: {one}" for name, found in self.findings.items() for one in found]

    def __str__(self) -> str:
        head = f"full check: {count(len(self.findings), 'thing')} looked at, {len(self.wrong)} wrong"
        return "\n".join([head, *(f"  {one}" for one in self.wrong)])

    def markdown(self) -> str:
        """The same as a page."""
        rows = [f"| {name} | {'<br>'.join(found) or 'well'} |" for name, found in self.findings.items()]
        return "\n".join(["# Full check", "", "| what | found |", "| --- | --- |", *rows, ""])


@flow(**WATCHED)
def full_check(timeout_h: float | None = None) -> Checked:
    """Look at the data, the stages, the source, the ledger, killed runs, and every model that serves.

    Args:
        timeout_h: hours after which it stops.

    Raises:
        UserError: something is wrong, each in a line of its own, or it took too long.
    """
    project = find_project()
    with at_most(timeout_h, "the full check"):
        checked = Checked({name: look_at(name, project) for name in CHECKS})
    write_text(project / FULL_CHECK, json.dumps({"time": ledger.now(), "findings": checked.findings}) + "\n")
    publish(checked.markdown(), "full-check", str(checked).splitlines()[0])
    logger.info(str(checked))
    if checked.wrong:
        raise UserError(str(checked))
    return checked


@task(task_run_name="{name}")
def look_at(name: str, project: Path) -> list[str]:
    """One check; what keeps it from looking is a finding, too."""
    try:
        return list(CHECKS[name](project))
    except (UserError, OSError) as error:
        return [" ".join(str(error).split())]


def data_is_whole(project: Path) -> Iterator[str]:
    """Every file that DVC tracks still has the bytes it was tracked with."""
    for path, expected, found in versioning.damaged(project):
        what = "is not there" if found is None else f"has other bytes (MD5 {found[:12]}, not {expected[:12]})"
        yield f"{path} {what}; `dvc pull --force` or `dvc checkout --force` brings it back"


def stages_are_current(project: Path) -> Iterator[str]:
    """Nothing was changed since the stages ran."""
    for name, changes in versioning.changed_stages(project).items():
        yield f"{name} is out of date ({', '.join(changes)}); `convoy run` brings it up to date"


def source_is_sound(project: Path) -> Iterator[str]:
    """The source can still be ingested."""
    report = checks.look_at_source(versioning.last_source(project), project)
    if report.stops:
        yield f"{report.source}: `convoy run` would stop: {report.stops}"


def ledger_is_sound(project: Path) -> Iterator[str]:
    """The ledger is unbroken, every line has its end, and what serves is what it says."""
    entries = ledger.read(project)
    for entry in ledger.unfinished(entries):
        yield (f"line {entry['number']}, about {entry['model']} version {entry['version']}, has no end; "
               "the next promote, predict or rollback carries it out")  # fmt: skip
    client = registry.connect(project)
    done = ledger.carried_out(entries)
    for model in dict.fromkeys(entry["model"] for entry in done):
        says = [entry for entry in done if entry["model"] == model][-1]["after"]
        now = registry.aliases(client, model)
        for alias in registry.ALIASES:
            if now.get(alias) != says.get(alias):
                yield (f"{model}: {alias} is version {now.get(alias)} in MLflow, {says.get(alias)} in the ledger: "
                       "somebody moved it by hand; `convoy promote RUN --override REASON` sets both")  # fmt: skip


def champions_answer(project: Path) -> Iterator[str]:
    """Every model that serves has the bytes that were registered, and names a picture."""
    client = registry.connect(project)
    serving = [one.name for one in client.search_registered_models() if CHAMPION in (one.aliases or {})]
    name = said_of_dataset(project, "name")
    if name is not None and name not in serving:
        yield f"no version of {name} serves; `convoy promote` registers the last training"
    for model in serving:
        version = registry.champion(client, model)
        try:
            if version is not None:
                evidence.check_that_it_predicts(version.uri)
        except (UserError, OSError) as error:
            said = " ".join(str(error).split())
            yield f"{version}: {said}; `convoy rollback --model {model}` lets the one before it serve"


def nothing_was_killed(project: Path) -> Iterator[str]:
    """No run is noted whose process is gone."""
    for note in recovery.dead(project):
        yield f"{note} was killed and could not be closed; call `convoy run` to close it"


CHECKS: dict[str, Callable[[Path], Iterator[str]]] = {
    "data": data_is_whole,
    "stages": stages_are_current,
    "source": source_is_sound,
    "ledger": ledger_is_sound,
    "models": champions_answer,
    "killed runs": nothing_was_killed,
}
