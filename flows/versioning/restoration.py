"""Restore what the ledger says is serving into an MLflow that does not have it, as in a clone of a project.

git holds the ledger, and DVC the bundles. A bundle is believed only if it has the digest that the ledger names.
The versions keep their numbers, and the aliases are set last: a restoration that was killed is begun again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.orchestration import local_databases
from flows.project.paths import CACHE, CLASSIFIER
from flows.project.project import Project
from flows.promotion import ledger, model_registry, registry_lock
from flows.promotion.gates.evaluation import read_dataset_fingerprint
from flows.promotion.gates.scoring import check_model_predicts
from flows.promotion.model_registry import ALIASES, CHAMPION, PREVIOUS
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock
from lightning_modules.tracking import offline_queue
from lightning_modules.tracking.client import get_tracking_uri, is_tracking_shared
from lightning_modules.tracking.local_store.location import get_database_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lightning_modules.tracking.restoration.restored_run import KeptFiles

logger = console.get_logger(__name__)

LOCK = CACHE / "restoration.lock"
TRAIN = "train"  # the stage that writes data/models/classifier
INDEX_FILE = "index.parquet"


def open_registry(project: Project, *run_ids: str) -> MlflowClient:
    """Connect to the project's MLflow, and restore what the ledger says is serving there.

    Args:
        project: the project's folder.
        *run_ids: ids of runs that are needed, or their first characters; the run of data/models/classifier is
            restored if it is one of them.

    Raises:
        UserError: MLflow does not answer, or a champion cannot be restored.
    """
    client = model_registry.connect_registry(project)
    for model in find_missing_models(client, project):
        with _lock(project):
            if model_registry.needs_restoration(client, model):
                _restore_model(client, project, model)
    restore_lost_files(client, project)
    if run_ids:
        restore_last_training(client, project, run_ids)
    return client


def find_missing_models(client: MlflowClient, project: Project) -> list[str]:
    """Return the models that serve by the ledger and are not in MLflow's registry."""
    serving = ledger.find_serving(ledger.read_ledger(project))
    return [model for model in serving if model_registry.needs_restoration(client, model)]


def restore_lost_files(client: MlflowClient, project: Project) -> None:
    """Write the files of versions that serve or served before where they are missing in MLflow's own folder.

    Raises:
        UserError: the files of a champion are neither here nor in DVC's cache or remote.
    """
    database = get_database_path(get_tracking_uri(project.folder))
    if database is None or os.environ.get("MLFLOW_REGISTRY_URI"):  # only the server sees its files
        return
    entries = ledger.read_ledger(project)
    for model in ledger.find_serving(entries):
        aliases = model_registry.read_aliases(client, model)
        for alias in (CHAMPION, PREVIOUS):
            number = aliases.get(alias)
            decision = ledger.find_decision(entries, model, number)
            if number is None or decision is None or not decision.get("bundle"):
                continue
            if not local_databases.list_lost_files(database, model, number):
                continue
            with _lock(project):
                if local_databases.list_lost_files(database, model, number):
                    _restore_files(client, project, decision, alias, database)


def _restore_files(
    client: MlflowClient, project: Project, decision: ledger.LedgerEntry, alias: str, database: Path
) -> None:
    from lightning_modules.tracking.restoration.restored_run import restore_model_files

    model, number = decision["model"], int(decision["version"])
    version, folder = model_registry.find_version(client, model, number), None
    try:
        with find_bundle(project, decision) as (bundle, lock):
            folder = local_databases.find_version_folder(database, model, number)
            assert version is not None and folder is not None
            kept = _read_kept_files(project, bundle, lock)
            restore_model_files(client, project.folder, bundle, version.run_id, folder, kept)
            check_model_predicts(version.uri)
    except UserError as error:
        if alias == CHAMPION:
            raise
        logger.warning("%s", error)
        return
    logger.info("restored: the files of %s, in %s", version, folder)


def restore_last_training(client: MlflowClient, project: Project, run_ids: Sequence[str]) -> None:
    """Restore the run of data/models/classifier if it is one of these and MLflow does not have it."""
    folder = project / CLASSIFIER
    try:
        run_id = str(json.loads((folder / "run.json").read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):  # nothing was trained, or `promote` says what is broken
        return
    if not run_id.startswith(tuple(run_ids)) or model_registry.has_run(client, run_id):
        return
    is_local = run_id.startswith(offline_queue.LOCAL_ID_PREFIX)
    if is_local and (is_tracking_shared() or offline_queue.find_queue(project.folder, run_id) is not None):
        return  # the machine that trained it sends it
    with _lock(project):
        restored = _restore_bundle(client, project, folder, _read_kept_files(project, folder))
    logger.info("restored: run %s, which trained %s, is run %s here", run_id[:12], CLASSIFIER, restored[:12])


@contextmanager
def _lock(project: Project) -> Iterator[None]:
    path = project / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path, lambda: logger.info("restored: waiting for another process that restores the models")):
        yield


# ---- a registered model -----------------------------------------------------------------------------


def _restore_model(client: MlflowClient, project: Project, model: str) -> None:
    everything = ledger.read_ledger(project)
    entries = [entry for entry in everything if entry.get("model") == model]
    aliases = ledger.find_serving(everything)[model]
    runs: dict[int, str] = {}
    for alias in sorted(ALIASES, key=lambda alias: alias != CHAMPION):
        if (number := aliases.get(alias)) is None or number in runs:
            continue
        try:
            runs[number] = _restore_version(client, project, model, number, entries)
        except UserError as error:
            if alias == CHAMPION:
                raise
            logger.warning("%s; it is left out as %s", error, alias)
    last = max(int(entry["version"]) for entry in entries if "version" in entry)
    with registry_lock.registry_lock(client, model):
        if not model_registry.needs_restoration(client, model):  # another machine has been faster
            _delete_runs(client, runs)
            return
        model_registry.restore_versions(client, model, runs, last, _collect_tags(everything, model))
        model_registry.finish_restoration(
            client, model, {alias: number for alias, number in aliases.items() if number in runs}
        )
    logger.info("restored: %s version %s serves, as the ledger says", model, aliases[CHAMPION])


def _delete_runs(client: MlflowClient, runs: Mapping[int, str]) -> None:
    for run_id in runs.values():
        if model_registry.is_unregistered(client, run_id):
            client.delete_run(run_id)


def _collect_tags(entries: list[ledger.LedgerEntry], model: str) -> dict[int, dict[str, str]]:
    """Return the tags of each version, of all its decisions."""
    tags: dict[int, dict[str, str]] = {}
    for entry in ledger.find_completed(entries, model):
        tags.setdefault(int(entry["version"]), {}).update(entry.get("tags", {}))
    return tags


def _restore_version(
    client: MlflowClient, project: Project, model: str, number: int, entries: list[ledger.LedgerEntry]
) -> str:
    """Restore the run of a version; return its id.

    Raises:
        UserError: its bundle is neither here nor in DVC's cache or remote.
    """
    decision = ledger.find_decision(entries, model, number)
    if decision is None:
        raise UserError(f"{model} version {number}: the ledger has no decision about it")
    if run_id := _find_known_run(client, decision):
        return run_id
    with find_bundle(project, decision) as (folder, lock):
        logger.info("restored: %s version %s, from %s", model, number, _describe_place(folder, project))
        return _restore_bundle(client, project, folder, _read_kept_files(project, folder, lock))


def _find_known_run(client: MlflowClient, decision: ledger.LedgerEntry) -> str | None:
    """Return the run of a decision if MLflow has it, with the bundle that was decided about."""
    if not model_registry.has_run(client, str(decision.get("run"))):
        return None
    run = model_registry.find_run(client, decision["run"])
    try:
        digest = check_model_predicts(model_registry.find_model_uri(run))
    except UserError:  # its model is gone
        return None
    return str(run.info.run_id) if digest == decision.get("bundle") else None


def _describe_place(folder: Path, project: Project) -> str:
    return str(CLASSIFIER) if folder == project / CLASSIFIER else "DVC"


def _restore_bundle(client: MlflowClient, project: Project, folder: Path, kept: KeptFiles) -> str:
    """Restore the run of a bundle, and verify that its model predicts with the digest of the bundle."""
    from lightning_modules.bundle import check_bundle
    from lightning_modules.tracking.restoration.restored_run import restore_run

    _, digest = check_bundle(folder)
    run_id = restore_run(client, project.folder, folder, kept)
    restored = check_model_predicts(model_registry.find_model_uri(client.get_run(run_id)))
    if restored != digest:
        client.delete_run(run_id)
        raise UserError(f"{folder}: the model that was restored from it has another digest; try again")
    return run_id


# ---- where a bundle is ------------------------------------------------------------------------------


@contextmanager
def find_bundle(project: Project, decision: ledger.LedgerEntry) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Find the bundle of a decision: in data/models/classifier, else in what DVC kept of earlier trainings.

    Yields:
        Its folder, for the length of the block, and the stage of the dvc.lock that names it.

    Raises:
        UserError: it is nowhere, or DVC cannot get it.
    """
    with ExitStack() as stack:
        if _is_bundle_of(project / CLASSIFIER, decision):
            yield project / CLASSIFIER, dvc_repo.read_stage_lock(dvc_repo.read_lock(project), TRAIN)
            return
        reasons: list[str] = []
        for md5, lock in _list_candidates(project, decision):
            try:
                folder = stack.enter_context(dvc_repo.fetch_output(project, md5))
            except UserError as error:
                reasons.append(str(error))
                continue
            if _is_bundle_of(folder, decision):
                yield folder, lock
                return
        raise UserError(_explain_missing(project, decision, reasons))


def _list_candidates(project: Project, decision: ledger.LedgerEntry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield DVC's hash and the stage of each bundle that may be the one of a decision, the likeliest first."""
    locks = dict(dvc_repo.list_output_versions(project, TRAIN, CLASSIFIER))
    recorded = decision.get("dvc")
    if recorded is not None:
        yield recorded, locks.pop(recorded, {})
    for md5, lock in locks.items():
        if _may_be_bundle_of(project, md5, decision):
            yield md5, lock


def _may_be_bundle_of(project: Project, md5: str, decision: ledger.LedgerEntry) -> bool:
    """Return False if DVC's cache has this bundle, and it is another one; nothing is fetched."""
    text = dvc_repo.read_cached_file(project, md5, "run.json")
    try:
        return text is None or json.loads(text)["run_id"] == decision.get("run")
    except (ValueError, KeyError, TypeError):
        return True


def _is_bundle_of(folder: Path, decision: ledger.LedgerEntry) -> bool:
    """Return whether a folder holds the bundle that a decision was about, by its digest."""
    from lightning_modules.bundle import check_bundle

    try:
        return check_bundle(folder)[1] == decision.get("bundle")
    except UserError:
        return False


def _explain_missing(project: Project, decision: ledger.LedgerEntry, reasons: list[str]) -> str:
    what = f"{decision['model']} version {decision['version']} of the ledger cannot be restored into MLflow"
    remote = dvc_repo.find_default_remote(project)
    if not reasons:
        return (
            f"{what}: neither {CLASSIFIER} nor a dvc.lock in git's history has its bundle "
            f"({str(decision.get('bundle'))[:12]}); `git fetch` the branch that has it, then `dvc pull`"
        )
    if remote is None:
        return (
            f"{what}: its bundle is not in DVC's cache, and DVC has no remote here; `dvc remote add -d NAME URL`"
        )
    url = dvc_repo.find_remote_url(project, remote)
    return (
        f"{what}: DVC's remote {remote!r} ({url}) {_describe_reason(reasons[0])}; type the command again once it "
        "can be reached and has the data (`dvc push` where it was trained)"
    )


def _describe_reason(reason: str) -> str:
    if "Missing cache files" in reason or "missing-files" in reason:
        return "cannot be reached or does not have its bundle"
    return f"does not give its bundle: {reason.rpartition('ERROR: ')[2][:300]}"


# ---- what else is known of a training ---------------------------------------------------------------


def _read_kept_files(project: Project, folder: Path, lock: Mapping[str, Any] | None = None) -> KeptFiles:
    from lightning_modules.bundle import check_bundle
    from lightning_modules.tracking.restoration.restored_run import KeptFiles

    is_here = folder == project / CLASSIFIER
    info, _ = check_bundle(folder)
    lock = dvc_repo.read_stage_lock(dvc_repo.read_lock(project), TRAIN) if lock is None else lock
    params = ((lock.get("params") or {}).get("params.yaml") or {}).get(TRAIN) or {}
    is_current = info.dataset["fingerprint"] == read_dataset_fingerprint(project)
    rows = None if is_current else _fetch_training_rows(project, info.dataset.get("digest", ""))
    metrics, report = _read_evaluation(project) if is_here else ({}, [])
    return KeptFiles(params, rows, metrics, report)


def _fetch_training_rows(project: Project, md5: str) -> Any:
    """Return the rows of the training split of an earlier dataset, if DVC has its index."""
    import pyarrow.parquet as pq

    if not md5.endswith(".dir"):
        return None
    try:
        with dvc_repo.fetch_output(project, md5, INDEX_FILE) as path:
            rows = pq.read_table(path)
    except (UserError, OSError, ValueError) as error:
        logger.info("restored: the training pictures are not known: %s", error)
        return None
    return rows.filter([split == "train" for split in rows["split"].to_pylist()])


def _read_evaluation(project: Project) -> tuple[dict[str, float], list[Path]]:
    """Return the metrics and the report of data/models/classifier, if DVC's lock says that they are of it."""
    from lightning_modules.evaluation.stage import flatten_metrics

    text = dvc_repo.read_lock(project)
    trained = dvc_repo.find_output_md5(dvc_repo.read_stage_lock(text, TRAIN), CLASSIFIER)
    evaluated = dvc_repo.read_stage_lock(text, "evaluate")
    tested = [dep.get("md5") for dep in evaluated.get("deps") or [] if dep.get("path") == CLASSIFIER.as_posix()]
    try:
        metrics = flatten_metrics(json.loads((project / "metrics.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, []
    if tested != [trained]:
        return {}, []
    report = [project / str(out["path"]) for out in evaluated.get("outs") or []]
    return metrics, [path for path in report if path.is_file() and path.name != "metrics.json"]
