"""MLflow's model registry: versions, aliases and tags. No other module calls it.

A registered model has the name of its dataset. Its aliases: `champion` serves, `previous` served before it, and
`challenger` was compared and did not win. flows.promotion.alias_updates moves them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.project.exceptions import NoChampion, ServerUnavailable
from flows.project.project import Project
from imageset.exceptions import UserError
from lightning_modules.tracking import client, offline_queue, tags
from lightning_modules.tracking.client import describe_deleted_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from lightning_modules.bundle import Bundle


RESTORING_TAG = "convoy.restoring"  # of a registered model that is not completely restored yet
# Tags of versions
QUESTION_TAG = "convoy.question"  # the champion, the test images and the rules of the last comparison
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
ALIASES = (PREVIOUS, CHAMPION, CHALLENGER)  # in the order in which they move
DECISION_TAG = "convoy.decision"  # the version tag that is written last: a decision that is complete
ROLLED_BACK_TAG = "convoy.rolled_back"  # the version tag of what was taken out of service: when, by whom, why
COMPARED_VERSION_TAG = (
    "convoy.compared_with_version"  # the version tag with the number of the champion at the time
)
NUMBER_TAG_PREFIX = "convoy."  # version tags of the numbers of a decision: followed by the number's name
PRECISION_TAG_PREFIX = "convoy.precision."  # version tags of the precisions that were compared with fp32
NOT_FOUND_CODES = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # MLflow says either for "no such alias"


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        name: of the registered model.
        number: of the version.
        run_id: MLflow's id of the training.
        decision: why it serves or does not, once that is decided.
        tags: all tags of the version.
    """

    name: str
    number: int
    run_id: str
    decision: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """`models:/NAME/NUMBER`, which does not depend on aliases."""
        return f"models:/{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def connect_registry(project: Project) -> MlflowClient:
    """Connect to the project's MLflow.

    Raises:
        ServerUnavailable: it is a server and does not answer.
        UserError: it is a file and cannot be opened.
    """
    try:
        return client.connect_to_mlflow(project.folder)
    except UserError as error:
        if client.get_tracking_uri(project.folder).startswith("http"):
            raise ServerUnavailable(str(error)) from error
        raise


def find_champion_version(client: MlflowClient, name: str) -> Version | None:
    """Return the champion of the registered model `name`, or None."""
    return _find_by_alias(client, name, CHAMPION)


def require_champion(client: MlflowClient, name: str) -> Version:
    """Return the champion of the registered model `name`.

    Raises:
        NoChampion: there is none; the message says why a challenger does not serve, or which models do.
    """
    champion = find_champion_version(client, name)
    if champion is not None:
        return champion
    challenger = _find_by_alias(client, name, CHALLENGER)
    if challenger is not None:
        reason = challenger.decision or "its decision does not say why"
        raise NoChampion(f"no model {name!r} serves yet: version {challenger.number} does not, since {reason}")
    models = client.search_registered_models()
    others = sorted(model.name for model in models if CHAMPION in (model.aliases or {}))
    hint = f"name one of these with --model: {', '.join(others)}" if others else "train one: `convoy run FOLDER`"
    raise NoChampion(f"no model {name!r} serves (none has the alias '{CHAMPION}'); {hint}")


def load_version_bundle(version: Version) -> Bundle:
    """Load the bundle of a champion, and check its digests.

    Raises:
        UserError: the bundle is missing or damaged.
    """
    from lightning_modules.tracking.model_download import load_bundle

    try:
        return load_bundle(version.uri)
    except UserError as error:
        raise UserError(f"{version} cannot be used: {error}; or make the previous version serve: "
                        f"`convoy rollback --model {version.name}`") from error  # fmt: skip


def find_version_by_run(client: MlflowClient, name: str, run_id: str) -> Version | None:
    """Return the newest version that was registered from a run, or None."""
    # MLflow's filters cannot express every name: a quote in it has no escape
    entries = client.search_model_versions(f"run_id = '{run_id}'")
    versions = (_to_version(entry) for entry in entries if entry.name == name)
    return max(versions, key=lambda version: version.number, default=None)


def find_run(client: MlflowClient, run_id: str) -> Run:
    """Return the run with this id, or the only one whose id begins with it.

    Where MLflow does not have it, that is the run which was restored for it from DVC.

    Raises:
        UserError: there is no such run, or more than one.
    """
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    from lightning_modules.tracking.restoration import restored_run  # loads numpy and pyarrow

    if run_id.startswith(offline_queue.LOCAL_ID_PREFIX) and not restored_run.find_restored_runs(client, run_id):
        run_id = offline_queue.find_sent_run(client, run_id)
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND_CODES:
            raise
    matches: list[Run] = []
    if re.fullmatch(r"[0-9a-f]{4,31}", run_id):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        query = f"attributes.run_id LIKE '{run_id}%'"
        matches = client.search_runs(experiments, query, max_results=6)
        matches = matches or client.search_runs(experiments, query, ViewType.DELETED_ONLY, max_results=6)
    if not matches and re.fullmatch(r"[0-9a-f]{4,32}|local-[0-9a-f]+", run_id):
        matches = restored_run.find_restored_runs(client, run_id)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(run.info.run_id[:12] for run in matches)
        raise UserError(f"{len(matches)} runs begin with {run_id!r} ({names}); write more of the id")
    raise UserError(f"MLflow has no run {run_id!r}; `mlflow ui` lists all runs")


def has_run(client: MlflowClient, run_id: str) -> bool:
    """Return whether MLflow has a run, or one that was restored for it."""
    try:
        find_run(client, run_id)
    except UserError:
        return False
    return True


def is_unregistered(client: MlflowClient, run_id: str) -> bool:
    """Return whether no version of a model is from this run."""
    return not client.search_model_versions(f"run_id = '{run_id}'", max_results=1)


def require_finished_run(client: MlflowClient, run_id: str) -> Run:
    """Return a run if it may be promoted: it is FINISHED, and all its metrics are finite.

    Raises:
        UserError: there is no such run, it is not FINISHED, or a metric is not finite.
    """
    run = find_run(client, run_id)
    run_id = run.info.run_id
    if run.info.lifecycle_stage != "active":
        raise UserError(describe_deleted_run(run_id, client.tracking_uri))
    if run.info.status != "FINISHED":
        raise UserError(
            f"run {run_id} is {run.info.status}, not FINISHED; only a finished training can be promoted"
        )
    not_finite = [
        f"{name} is {value}" for name, value in sorted(run.data.metrics.items()) if not math.isfinite(value)
    ]
    not_finite += [
        f"{tag} was {text}"
        for tag, text in sorted(run.data.tags.items())
        if tag.startswith(tags.NOT_FINITE_PREFIX)
    ]
    if not_finite:
        raise UserError(
            f"run {run_id} has metrics that are not finite ({', '.join(not_finite)}); it cannot be promoted"
        )
    return run


def check_promotable_run(run_id: str, project: Project) -> None:
    """Raise UserError if a run cannot be promoted, regardless of any comparison."""
    offline_queue.check_all_sent(project.folder, run_id)
    find_model_uri(require_finished_run(connect_registry(project), run_id))


def find_model_uri(run: Run) -> str:
    """Return the URI of the model that a training logged.

    Raises:
        UserError: it logged no model.
    """
    if model_id := run.data.tags.get(tags.MODEL_TAG):
        return f"models:/{model_id}"
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        raise UserError(f"run {run.info.run_id} logged no model; train again with `dvc repro -f train`")
    return f"models:/{outputs[-1].model_id}"


def register_model(client: MlflowClient, name: str, run_id: str, model_uri: str) -> Version:
    """Register a model as a new version of `name`, without an alias.

    The caller has loaded the model before: MLflow registers a model that does not exist as READY.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id = model_uri.removeprefix("models:/")
    source = client.get_logged_model(model_id).artifact_location
    return _to_version(client.create_model_version(name, source, run_id, model_id=model_id))


def needs_restoration(client: MlflowClient, name: str) -> bool:
    """Return whether MLflow does not have a model, or has a part of it that was being restored."""
    from mlflow.exceptions import MlflowException

    try:
        return RESTORING_TAG in client.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return True
        raise


def restore_versions(
    client: MlflowClient,
    name: str,
    runs: Mapping[int, str],
    last: int,
    version_tags: Mapping[int, Mapping[str, str]],
) -> None:
    """Register runs under the numbers that their versions had elsewhere; `finish_restoration` ends it.

    The other numbers up to `last` are taken and given back, for MLflow never uses a number twice.

    Args:
        client: of the project's MLflow.
        name: the registered model; what is left of it from a restoration that was killed is removed first.
        runs: ids of runs by version number.
        last: the highest number that was ever used.
        version_tags: tags by version number.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, tags={RESTORING_TAG: "true"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.delete_registered_model(name)
        client.create_registered_model(name, tags={RESTORING_TAG: "true"})
    spare = next(iter(runs.values()))
    for number in range(1, last + 1):
        run = client.get_run(runs.get(number, spare))
        version = register_model(client, name, run.info.run_id, find_model_uri(run))
        if number not in runs:
            client.delete_model_version(name, str(version.number))
        elif version.number != number:
            raise UserError(f"MLflow gave {name} the version {version.number} instead of {number}; try again")
        else:
            set_version_tags(client, name, number, version_tags.get(number, {}))


def finish_restoration(client: MlflowClient, name: str, aliases: Mapping[str, int]) -> None:
    """Set the aliases of a restored model, the champion last: only then it serves."""
    for alias in sorted(aliases, key=lambda alias: alias == CHAMPION):
        client.set_registered_model_alias(name, alias, str(aliases[alias]))
    client.delete_registered_model_tag(name, RESTORING_TAG)


def find_version(client: MlflowClient, name: str, number: int) -> Version | None:
    """Return a version by its number, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return _to_version(client.get_model_version(name, str(number)))
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


def read_aliases(client: MlflowClient, name: str) -> dict[str, int]:
    """Return the version of each alias that Convoy uses; an alias that is not set has no entry."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return {}
        raise
    return {alias: int(aliases[alias]) for alias in ALIASES if alias in aliases}


def set_alias(client: MlflowClient, name: str, alias: str, number: int | None) -> None:
    """Set an alias to a version, or delete it (None). Only flows.promotion.alias_updates calls this."""
    if number is None:
        client.delete_registered_model_alias(name, alias)
    else:
        client.set_registered_model_alias(name, alias, str(number))


def set_version_tags(client: MlflowClient, name: str, number: int, tags: Mapping[str, str]) -> None:
    """Write tags to a version, the decision last: if it is there, all tags are."""
    for key, value in sorted(tags.items(), key=lambda item: item[0] == DECISION_TAG):
        client.set_model_version_tag(name, str(number), key, value)


def read_model_tags(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the tags of a registered model; of one that does not exist, none."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_registered_model(name).tags)
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return {}
        raise


def set_model_tag(client: MlflowClient, name: str, key: str, value: str) -> None:
    """Set a tag of a registered model."""
    client.set_registered_model_tag(name, key, value)


def delete_model_tag(client: MlflowClient, name: str, key: str) -> None:
    """Delete a tag of a registered model."""
    client.delete_registered_model_tag(name, key)


def _find_by_alias(client: MlflowClient, name: str, alias: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return _to_version(client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


def _to_version(entry: ModelVersion) -> Version:
    tags = dict(entry.tags or {})
    return Version(entry.name, int(entry.version), entry.run_id or "", tags.get(DECISION_TAG), tags)
