"""The flow `promote`: register a finished training, and make it the champion if it is proven better."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows.notifications import console
from flows.orchestration import concurrency
from flows.orchestration.artifacts import publish_markdown
from flows.orchestration.flow_options import FLOW_OPTIONS, conclude_run
from flows.orchestration.retries import TASK_RETRY_OPTIONS
from flows.project.exceptions import ChampionChanged, ProjectBusy
from flows.project.paths import CLASSIFIER
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry
from flows.promotion.class_overlap import CLASSES_KEY
from flows.promotion.gates.evaluation import check_dataset_name, evaluate_gates, read_dataset_fingerprint
from flows.promotion.gates.gate import GateResult
from flows.promotion.gates.scoring import check_model_predicts
from flows.promotion.model_registry import (
    CHALLENGER,
    CHAMPION,
    DECISION_TAG,
    PREVIOUS,
    QUESTION_TAG,
    ROLLED_BACK_TAG,
    Version,
)
from flows.versioning import dvc_repo, restoration
from imageset.exceptions import UserError
from imageset.utils.text import escape_markdown
from lightning_modules.tracking import offline_queue, provenance
from lightning_modules.tracking.tags import PROMOTION_FOLDER

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle


logger = console.get_logger(__name__)

MAX_ATTEMPTS = 3  # if another promotion wins in the meantime, the comparison is repeated with the new champion


@dataclass(frozen=True)
class Candidate:
    """A finished training whose model loads.

    Attributes:
        name: of the registered model.
        run_id: MLflow's id of the training.
        model_uri: of its model.
        version: None if it is not registered yet.
        classes: names of the model's classes.
    """

    name: str
    run_id: str
    model_uri: str
    version: Version | None
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.version) if self.version else f"{self.name} (run {self.run_id})"


@dataclass(frozen=True)
class PromoteResult:
    """The outcome of a promotion.

    Attributes:
        version: the registered version of the run.
        serves: whether it is the champion.
        reason: why.
        is_new: False if it was decided before.
        gate_table: the gates as a Markdown table.
    """

    version: Version
    serves: bool
    reason: str
    is_new: bool = True
    gate_table: str = ""

    def __str__(self) -> str:
        return f"{self.version} {'serves' if self.serves else 'does not serve'}: {self.reason}"


@dataclass(frozen=True)
class DryRunResult:
    """The outcome that a promotion would have."""

    candidate: Candidate
    gate_result: GateResult

    def __str__(self) -> str:
        outcome = "would serve" if self.gate_result.passes else "would not serve"
        return f"{self.candidate} {outcome}: {self.gate_result.reason}\n{self.gate_result.to_markdown()}".rstrip()


@flow(**FLOW_OPTIONS)
@conclude_run
def promote(run_id: str | None = None, override: str | None = None) -> PromoteResult:
    """Register the model of a training and make it the champion if it is better.

    Candidate and champion are scored now, by the same code on the same test images.

    Args:
        run_id: MLflow's id of the training, or its first characters; None for the one in data/models/classifier.
        override: a person's reason to promote whatever the comparison says; it is written to the ledger.

    Raises:
        UserError: there is no such run, it did not finish, its metrics are not finite, its model does not
            load, or it was trained on other data than data/normalized holds.
    """
    project = Project.find()
    candidate = find_candidate(run_id or read_trained_run_id(project), project)
    with concurrency.acquire_limits(concurrency.name_dataset_limit(candidate.name)):
        return compare_and_decide(candidate, project, override)


def compare_and_decide(candidate: Candidate, project: Project, override: str | None) -> PromoteResult:
    """Compare and decide; repeat both if another promotion wins in the meantime."""
    for _ in range(MAX_ATTEMPTS):
        champion = find_champion(candidate.name, project)
        if champion is not None and candidate.version is not None and champion.number == candidate.version.number:
            return _report_already_decided(champion, True)
        if (
            candidate.version is not None
            and not override
            and _is_already_decided(candidate.version, champion, project)
        ):
            return _report_already_decided(candidate.version, False)
        gate_result = evaluate(candidate, champion, project, override)
        try:
            return decide(candidate, champion, gate_result, project)
        except ChampionChanged as error:
            logger.info("promote: %s; comparing again", error)
            candidate = find_candidate(candidate.run_id, project)
    raise ProjectBusy(
        f"the champion of {candidate.name} changed {MAX_ATTEMPTS} times during the comparison; try again later"
    )


def dry_run_promotion(run_id: str | None) -> DryRunResult:
    """Make the comparison of `promote`, which counts as a look at the test pictures, and decide nothing.

    Raises:
        UserError: as `promote`.
    """
    project = Project.find()
    candidate = find_candidate.fn(run_id or read_trained_run_id(project), project)
    champion = find_champion.fn(candidate.name, project)
    return DryRunResult(candidate, evaluate.fn(candidate, champion, project, None))


def read_trained_run_id(project: Project) -> str:
    """Return the id of the MLflow run that trained data/models/classifier.

    Raises:
        UserError: nothing was trained, or run.json is broken.
    """
    path = project / CLASSIFIER / "run.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["run_id"])
    except FileNotFoundError:
        raise UserError(f"{CLASSIFIER}: nothing was trained yet; run `convoy run FOLDER`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: broken ({error}); run `dvc checkout --force` or `dvc repro -f train`") from None


@task(name="find_newcomer", **TASK_RETRY_OPTIONS)
def find_candidate(run_id: str, project: Project) -> Candidate:
    """Find the model of a run, and load it once to verify that it loads."""
    from lightning_modules.tracking.model_download import load_bundle

    client = restoration.open_registry(project, run_id)
    alias_updates.replay_if_needed(client, project)
    offline_queue.check_all_sent(project.folder, run_id)
    run = model_registry.require_finished_run(client, run_id)
    model_uri = model_registry.find_model_uri(run)
    bundle = load_bundle(model_uri)
    name = _read_bundle_dataset(bundle)
    check_dataset_name(name, run.info.run_id, project)
    version = model_registry.find_version_by_run(client, name, run.info.run_id)
    return Candidate(name, run.info.run_id, model_uri, version, bundle.info.classes)


@task(**TASK_RETRY_OPTIONS)
def find_champion(name: str, project: Project) -> Version | None:
    """Return the current champion, or None."""
    return model_registry.find_champion_version(model_registry.connect_registry(project), name)


@task(name="judge")
def evaluate(candidate: Candidate, champion: Version | None, project: Project, override: str | None) -> GateResult:
    """Decide whether the candidate should serve, with the numbers."""
    model_registry.connect_registry(project)
    if champion is None:
        check_model_predicts(candidate.model_uri)
    gate_result = evaluate_gates(candidate.model_uri, candidate.run_id, champion, project, bool(override))
    if override:
        return replace(
            gate_result, passes=True, reason=f"{override} (by hand; the comparison: {gate_result.reason})"
        )
    return gate_result


@task(**TASK_RETRY_OPTIONS)
def decide(
    candidate: Candidate, champion: Version | None, gate_result: GateResult, project: Project
) -> PromoteResult:
    """Register the candidate, verify that it predicts, write the decision to the ledger, and move the aliases."""
    client = model_registry.connect_registry(project)
    with alias_updates.alias_lock(project):
        alias_updates.replay_unfinished(client, project)
        version = model_registry.find_version_by_run(client, candidate.name, candidate.run_id)
        if version is None:
            version = model_registry.register_model(client, candidate.name, candidate.run_id, candidate.model_uri)
            logger.info("promote: run %s is now %s", candidate.run_id, version)
        digest = check_model_predicts(version.uri)
        entry = {
            "event": ledger.DECISION, "model": version.name, "version": version.number, "run": version.run_id,
            "serves": gate_result.passes, "reason": gate_result.reason,
            "champion": champion.number if champion else None,
            "bundle": digest, "dvc": dvc_repo.find_bundle_md5(project, digest), "numbers": gate_result.numbers,
            "commit": provenance.read_git_commit(project.folder), CLASSES_KEY: list(candidate.classes),
            "tags": _build_version_tags(gate_result, champion, project, again=ROLLED_BACK_TAG in version.tags),
        }  # fmt: skip
        expected = {CHAMPION: champion.number} if champion else {}
        line = alias_updates.update_aliases(
            client, project, entry, expected, lambda before: _compute_aliases(before, version, gate_result.passes)
        )
    logger.info("promote: %s %s: %s", version, "serves now" if gate_result.passes else "stays a challenger",
                gate_result.reason)  # fmt: skip
    decision = PromoteResult(version, gate_result.passes, gate_result.reason, gate_table=gate_result.to_markdown())
    _publish_decision(client, decision, line)
    return decision


def _compute_aliases(before: dict[str, int], version: Version, serves: bool) -> dict[str, int]:
    """Return the aliases after a decision."""
    if not serves:
        return {**before, CHALLENGER: version.number}
    after = {alias: number for alias, number in before.items() if number != version.number}
    if CHAMPION in before:
        after[PREVIOUS] = before[CHAMPION]
    return {**after, CHAMPION: version.number}


def _build_version_tags(
    gate_result: GateResult, champion: Version | None, project: Project, again: bool
) -> dict[str, str]:
    """Build the tags that the decision adds to the version; MLflow's UI shows them."""
    numbers = {
        f"{model_registry.NUMBER_TAG_PREFIX}{name}": f"{value:.6g}"
        for name, value in gate_result.numbers.items()
        if isinstance(value, int | float)
    }
    compared = {model_registry.COMPARED_VERSION_TAG: str(champion.number)} if champion else {}
    cleared = {ROLLED_BACK_TAG: ""} if again and gate_result.passes else {}
    question = _build_question(champion, project)
    return {**numbers, **compared, **cleared, QUESTION_TAG: question, DECISION_TAG: gate_result.reason}


def _build_question(champion: Version | None, project: Project) -> str:
    """Describe what a decision depends on: the champion, the test images, and the rules."""
    data = read_dataset_fingerprint(project)
    return json.dumps(
        [champion.number if champion else None, data, project.load_params("promote")], sort_keys=True
    )


def _is_already_decided(version: Version, champion: Version | None, project: Project) -> bool:
    """Return whether the same question was decided before, or the version was rolled back."""
    return bool(version.tags.get(ROLLED_BACK_TAG)) or version.tags.get(QUESTION_TAG) == _build_question(
        champion, project
    )


def _report_already_decided(version: Version, serves: bool) -> PromoteResult:
    reason = version.tags.get(ROLLED_BACK_TAG) or version.decision or ""
    state = "already serves" if serves else "was compared before and does not serve"
    if version.tags.get(ROLLED_BACK_TAG) and not serves:
        state = "was rolled back and serves again only with --override"
    logger.info("promote: %s %s (%s); skipped", version, state, reason)
    return PromoteResult(version, serves, reason, is_new=False)


def _publish_decision(client: Any, decision: PromoteResult, line: ledger.LedgerEntry) -> None:
    """Publish the decision as artifacts of the MLflow run and the Prefect run; a failure does not undo it."""
    from mlflow.exceptions import MlflowException

    page = f"# {escape_markdown(str(decision))}\n\n{decision.gate_table}\n"
    folder = f"{PROMOTION_FOLDER}/{line['number']:04d}"
    record = json.dumps(line, indent=2, ensure_ascii=False)
    try:
        client.log_text(decision.version.run_id, page, f"{folder}/decision.md")
        client.log_text(decision.version.run_id, record, f"{folder}/ledger.json")
    except (MlflowException, OSError) as error:  # MLflow, or its artifact store, is unavailable
        logger.warning("promote: %s is not in MLflow: %s", folder, " ".join(str(error).split())[:200])
    publish_markdown(page, "promotion", str(decision))


def _read_bundle_dataset(bundle: Bundle) -> str:
    return str(bundle.info.dataset["name"])
