"""Promote: a finished training becomes a registered version; it serves if it beats the one that does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows import console, registry, versioning
from flows.project import CLASSIFIER, NORMALIZED, RAW, find_project, stage_params
from flows.registry import Version
from flows.retries import RETRIED
from imageset.errors import UserError

if TYPE_CHECKING:
    from imageset.store import ImageStore
    from lightning_modules.bundle import Bundle

logger = console.get_logger(__name__)


@dataclass(frozen=True)
class Decision:
    """What became of a run: the version it is, whether that serves, and why."""

    version: Version
    serves: bool
    reason: str
    new: bool = True  # False: it was decided before

    def __str__(self) -> str:
        return f"{self.version} {'serves' if self.serves else 'does not serve'}: {self.reason}"


@flow
def promote(run_id: str | None = None) -> Decision:
    """Register the model of a training and make it the champion if it is better.

    Newcomer and champion are scored now, by the same code on the same test pictures.

    Args:
        run_id: MLflow's id of the training; None for the one in data/models/classifier.

    Raises:
        UserError: there is no such run, it did not finish, its metrics are no numbers, its model does not
            load, or it was trained on other data than data/normalized holds.
    """
    project = find_project()
    newcomer = register(run_id or trained_run(project), project)
    if newcomer.decision is not None:
        return _already(newcomer, project)
    champion = find_champion(newcomer.name, project)
    if champion is None or champion.number == newcomer.number:
        decision = Decision(newcomer, True, f"the first model of {newcomer.name}")
        return decide(decision, {}, project)
    gain = compare(newcomer, champion, project)
    return decide(gain.decision(), gain.facts(), project)


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
def register(run_id: str, project: Path) -> Version:
    """The registered version of a run: made now, after the model was loaded, or found."""
    from lightning_modules.bundle import load_bundle

    client = registry.connect(project)
    run = registry.finished_run(client, run_id)
    model_uri = registry.model_of_run(run)
    bundle = load_bundle(model_uri)
    name = _dataset(bundle)
    found = registry.version_of_run(client, name, run_id)
    if found is not None:
        return found
    version = registry.register(client, name, run_id, model_uri)
    logger.info("promote: run %s is now %s", run_id, version)
    return version


@task(**RETRIED)
def find_champion(name: str, project: Path) -> Version | None:
    """What serves now."""
    return registry.champion(registry.connect(project), name)


@dataclass(frozen=True)
class Gain:
    """Two models on the same test pictures."""

    newcomer: Version
    champion: Version
    newcomer_right: int
    champion_right: int
    num_test: int
    min_gain: float

    def decision(self) -> Decision:
        """The newcomer serves if its accuracy is higher by more than `min_gain`."""
        new, old = self.newcomer_right / self.num_test, self.champion_right / self.num_test
        wins = new - old > self.min_gain
        reason = (
            f"test accuracy {new:.4f} against {old:.4f} of version {self.champion.number} "
            f"on the same {self.num_test} pictures: {'more' if wins else 'not more'} than "
            f"{self.min_gain:g} better"
        )
        return Decision(self.newcomer, wins, reason)

    def facts(self) -> dict[str, str]:
        """The numbers, as tags of the version."""
        return {
            "convoy.test_accuracy": f"{self.newcomer_right / self.num_test:.6f}",
            "convoy.compared_with_version": str(self.champion.number),
            "convoy.compared_accuracy": f"{self.champion_right / self.num_test:.6f}",
            "convoy.num_test": str(self.num_test),
        }


@task
def compare(newcomer: Version, champion: Version, project: Path) -> Gain:
    """Score both on the test split of data/normalized, from the pictures' own bytes."""
    from imageset.store import ImageStore
    from lightning_modules.bundle import load_bundle

    registry.connect(project)
    store = ImageStore.open(project / NORMALIZED)
    bundles = [load_bundle(version.uri) for version in (newcomer, champion)]
    _check_same_data(bundles[0], store, newcomer)
    min_gain = float(stage_params(project, "promote")["min_gain"])
    new, old = (num_right(bundle, store, project) for bundle in bundles)
    return Gain(newcomer, champion, new, old, len(store.split("test")), min_gain)


def num_right(bundle: Bundle, store: ImageStore, project: Path) -> int:
    """How many test pictures a bundle names rightly. Classes are compared by name; a picture that it
    cannot read counts as wrong.

    Raises:
        UserError: a probability is not a number.
    """
    import numpy as np

    from imageset.raw import read_bytes
    from lightning_modules.scoring import score

    split = store.split("test")
    label_of = dict(zip(split.image_ids, (store.classes[label] for label in split.labels), strict=True))
    batch_size = int(stage_params(project, "predict")["batch_size"])
    items = read_bytes(project / RAW, list(label_of))
    right = 0
    with console.progress("promote", logger) as progress:
        progress.begin(len(label_of), step="scoring")
        for scored in score(bundle, items, batch_size=batch_size, workers=None):
            progress.advance()
            if scored.probabilities is None:
                continue
            if not np.isfinite(scored.probabilities).all():
                raise UserError("the model gives probabilities that are no numbers; it cannot be promoted")
            right += bundle.info.classes[int(scored.probabilities.argmax())] == label_of[scored.key]
    return right


@task(**RETRIED)
def decide(decision: Decision, facts: dict[str, str], project: Path) -> Decision:
    """Move the aliases and write down why."""
    client = registry.connect(project)
    version = decision.version
    if decision.serves:
        registry.crown(client, version)
    facts = {**facts, "convoy.git_commit": versioning.git_commit(project) or "none"}
    registry.note(client, version, decision.reason, facts)
    verdict = "serves now" if decision.serves else "stays a challenger"
    logger.info("promote: %s %s: %s", version, verdict, decision.reason)
    return decision


def _already(version: Version, project: Path) -> Decision:
    champion = find_champion(version.name, project)
    serves = champion is not None and champion.number == version.number
    state = "already serves" if serves else "was compared before and does not serve"
    logger.info("promote: %s %s (%s); skipped", version, state, version.decision)
    return Decision(version, serves, version.decision or "", new=False)


def _dataset(bundle: Bundle) -> str:
    return str(bundle.info.dataset["name"])


def _check_same_data(bundle: Bundle, store: ImageStore, newcomer: Version) -> None:
    trained_on = bundle.info.dataset["fingerprint"]
    if trained_on != store.fingerprint:
        raise UserError(
            f"{newcomer} (run {newcomer.run_id}) was trained on other data than {NORMALIZED} holds now; "
            "check out its dvc.lock and run `dvc checkout`, or train again with `dvc repro`"
        )
