"""Promote: a finished training becomes a registered version; it serves if it proves better than what does."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows import console, evidence, ledger, limits, moves, registry, versioning
from flows.errors import Busy, Overtaken
from flows.evidence import Verdict
from flows.pages import publish
from flows.project import CLASSIFIER, find_project, promotion_params
from flows.registry import CHALLENGER, CHAMPION, DECISION, PREVIOUS, ROLLED_BACK, Version
from flows.retries import RETRIED
from flows.watched import WATCHED
from imageset.errors import UserError
from lightning_modules import outbox

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle

logger = console.get_logger(__name__)

ATTEMPTS = 3  # another promotion may come first; the comparison is then made anew with the one that won

QUESTION = "convoy.question"  # tag of a version: what it was compared with, on what, by which rules


@dataclass(frozen=True)
class Newcomer:
    """A finished training whose model loads."""

    name: str
    run_id: str
    model_uri: str
    version: Version | None  # None: not registered yet

    def __str__(self) -> str:
        return str(self.version) if self.version else f"{self.name} (run {self.run_id})"


@dataclass(frozen=True)
class Decision:
    """What became of a run: the version it is, whether that serves, and why."""

    version: Version
    serves: bool
    reason: str
    new: bool = True  # False: it was decided before
    report: str = ""  # the checks as a Markdown table

    def __str__(self) -> str:
        return f"{self.version} {'serves' if self.serves else 'does not serve'}: {self.reason}"


@dataclass(frozen=True)
class Rehearsal:
    """What a promotion would do."""

    newcomer: Newcomer
    verdict: Verdict

    def __str__(self) -> str:
        would = "would serve" if self.verdict.wins else "would not serve"
        return f"{self.newcomer} {would}: {self.verdict.reason}\n{self.verdict.table()}".rstrip()


@flow(**WATCHED)
def promote(run_id: str | None = None, override: str | None = None) -> Decision:
    """Register the model of a training and make it the champion if it is better.

    Newcomer and champion are scored now, by the same code on the same test pictures.

    Args:
        run_id: MLflow's id of the training, or how it begins; None for the one in data/models/classifier.
        override: a person's reason to let it serve whatever the comparison says; it goes into the ledger.

    Raises:
        UserError: there is no such run, it did not finish, its metrics are no numbers, its model does not
            load, or it was trained on other data than data/normalized holds.
    """
    project = find_project()
    newcomer = find_newcomer(run_id or trained_run(project), project)
    with limits.hold(limits.of_dataset(newcomer.name)):
        return settle(newcomer, project, override)


def settle(newcomer: Newcomer, project: Path, override: str | None) -> Decision:
    """Compare and decide, again where another promotion came first."""
    for _ in range(ATTEMPTS):
        champion = find_champion(newcomer.name, project)
        if champion is not None and newcomer.version is not None and champion.number == newcomer.version.number:
            return _already(champion, True)
        if newcomer.version is not None and not override and _is_answered(newcomer.version, champion, project):
            return _already(newcomer.version, False)
        verdict = judge(newcomer, champion, project, override)
        try:
            return decide(newcomer, champion, verdict, project)
        except Overtaken as overtaken:
            logger.info("promote: %s; comparing again", overtaken)
            newcomer = find_newcomer(newcomer.run_id, project)
    raise Busy(f"the champion of {newcomer.name} changed {ATTEMPTS} times during the comparison; try again later")


def rehearse(run_id: str | None) -> Rehearsal:
    """The comparison of `promote` without writing anything.

    Raises:
        UserError: as `promote`.
    """
    project = find_project()
    newcomer = find_newcomer.fn(run_id or trained_run(project), project)
    champion = find_champion.fn(newcomer.name, project)
    return Rehearsal(newcomer, judge.fn(newcomer, champion, project, None))


def trained_run(project: Path) -> str:
    """The MLflow run of the training in data/models/classifier.

    Raises:
        UserError: there is none, or its note is broken.
    """
    path = project / CLASSIFIER / "run.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["run_id"])
    except FileNotFoundError:
        raise UserError(f"{CLASSIFIER}: nothing was trained yet; run `convoy run FOLDER`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: broken ({error}); run `dvc checkout --force` or `dvc repro -f train`") from None


@task(**RETRIED)
def find_newcomer(run_id: str, project: Path) -> Newcomer:
    """The model of a run, loaded once to see that it can be."""
    from lightning_modules.bundle import load_bundle

    client = registry.connect(project)
    moves.settle_if_needed(client, project)
    outbox.check_sent(project, run_id)
    run = registry.finished_run(client, run_id)
    model_uri = registry.model_of_run(run)
    name = _dataset(load_bundle(model_uri))
    evidence.check_name(name, run.info.run_id, project)
    return Newcomer(name, run.info.run_id, model_uri, registry.version_of_run(client, name, run.info.run_id))


@task(**RETRIED)
def find_champion(name: str, project: Path) -> Version | None:
    """What serves now."""
    return registry.champion(registry.connect(project), name)


@task
def judge(newcomer: Newcomer, champion: Version | None, project: Path, override: str | None) -> Verdict:
    """Whether the newcomer should serve, with the numbers."""
    registry.connect(project)
    if champion is None:
        evidence.check_that_it_predicts(newcomer.model_uri)
        verdict = Verdict(True, f"the first model of {newcomer.name}")
    else:
        verdict = evidence.compare(newcomer.model_uri, newcomer.run_id, champion, project)
    if override:
        return replace(verdict, wins=True, reason=f"{override} (by hand; the comparison: {verdict.reason})")
    return verdict


@task(**RETRIED)
def decide(newcomer: Newcomer, champion: Version | None, verdict: Verdict, project: Path) -> Decision:
    """Register the newcomer, see that what is registered predicts, write the decision down, move the aliases."""
    client = registry.connect(project)
    with moves.only_mover(project):
        moves.settle(client, project)
        version = registry.version_of_run(client, newcomer.name, newcomer.run_id)
        if version is None:
            version = registry.register(client, newcomer.name, newcomer.run_id, newcomer.model_uri)
            logger.info("promote: run %s is now %s", newcomer.run_id, version)
        digest = evidence.check_that_it_predicts(version.uri)
        entry = {
            "event": ledger.DECISION, "model": version.name, "version": version.number, "run": version.run_id,
            "serves": verdict.wins, "reason": verdict.reason, "champion": champion.number if champion else None,
            "bundle": digest, "numbers": verdict.numbers, "commit": versioning.git_commit(project),
            "tags": _tags(verdict, champion, project, again=ROLLED_BACK in version.tags),
        }  # fmt: skip
        expected = {CHAMPION: champion.number} if champion else {}
        line = moves.move(client, project, entry, expected, lambda before: _after(before, version, verdict.wins))
    logger.info("promote: %s %s: %s", version, "serves now" if verdict.wins else "stays a challenger",
                verdict.reason)  # fmt: skip
    decision = Decision(version, verdict.wins, verdict.reason, report=verdict.table())
    _publish(client, decision, line)
    return decision


def _after(before: dict[str, int], version: Version, wins: bool) -> dict[str, int]:
    """The aliases after a decision."""
    if not wins:
        return {**before, CHALLENGER: version.number}
    after = {alias: number for alias, number in before.items() if number != version.number}
    if CHAMPION in before:
        after[PREVIOUS] = before[CHAMPION]
    return {**after, CHAMPION: version.number}


def _tags(verdict: Verdict, champion: Version | None, project: Path, again: bool) -> dict[str, str]:
    """What the decision leaves at the version; MLflow's UI shows it there."""
    numbers = {f"convoy.{name}": f"{value:.6g}" for name, value in verdict.numbers.items()
               if isinstance(value, int | float)}  # fmt: skip
    compared = {"convoy.compared_with_version": str(champion.number)} if champion else {}
    cleared = {ROLLED_BACK: ""} if again and verdict.wins else {}
    question = _question(champion, project)
    return {**numbers, **compared, **cleared, QUESTION: question, DECISION: verdict.reason}


def _question(champion: Version | None, project: Path) -> str:
    """What a decision is an answer to: the champion, the test pictures, and the rules."""
    data = evidence.fingerprint(project)
    return json.dumps([champion.number if champion else None, data, promotion_params(project)], sort_keys=True)


def _is_answered(version: Version, champion: Version | None, project: Path) -> bool:
    """The same question has the same answer; and what was rolled back comes back only by hand."""
    return bool(version.tags.get(ROLLED_BACK)) or version.tags.get(QUESTION) == _question(champion, project)


def _already(version: Version, serves: bool) -> Decision:
    reason = version.tags.get(ROLLED_BACK) or version.decision or ""
    state = "already serves" if serves else "was compared before and does not serve"
    if version.tags.get(ROLLED_BACK) and not serves:
        state = "was rolled back and serves again only with --override"
    logger.info("promote: %s %s (%s); skipped", version, state, reason)
    return Decision(version, serves, reason, new=False)


def _publish(client: Any, decision: Decision, line: ledger.Entry) -> None:
    """The decision as artifacts of MLflow's run and of Prefect's; it stands, whether they get there or not."""
    from mlflow.exceptions import MlflowException

    page = f"# {decision}\n\n{decision.report}\n"
    folder = f"promotion/{line['number']:04d}"
    record = json.dumps(line, indent=2, ensure_ascii=False)
    try:
        client.log_text(decision.version.run_id, page, f"{folder}/decision.md")
        client.log_text(decision.version.run_id, record, f"{folder}/ledger.json")
    except (MlflowException, OSError) as error:  # MLflow, or its store of artifacts, is away
        logger.warning("promote: %s is not in MLflow: %s", folder, " ".join(str(error).split())[:200])
    publish(page, "promotion", str(decision))


def _dataset(bundle: Bundle) -> str:
    return str(bundle.info.dataset["name"])
