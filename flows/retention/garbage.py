"""`convoy gc`: remove what no serving version, branch or tag needs.

What DVC needs is DVC's own account (`Repo.used_objs`, as of `dvc gc`) for the working tree and all branches and
tags of every project of the repository, also branches that were only fetched. `dvc gc` itself would remove the
bundles of versions that serve and were never committed, and tells no sizes. In MLflow runs are deleted as in its
UI, and their artifacts removed; `mlflow gc` would remove the deleted experiments of all projects, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.project.paths import CACHE, CLASSIFIER, FEATURES
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.promotion.model_registry import CHAMPION
from flows.retention.actions import Action, describe_actions, format_bytes
from flows.retention.project_files import PREDICTION_CACHE, iter_leftovers
from flows.retention.stores import artifacts
from flows.retention.stores.object_store import FOLDER_SUFFIX, ObjectStore, find_bytes, open_stores, read_folder
from flows.retention.stores.shared_objects import add_files, find_used_objects, list_other_projects
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from imageset.utils.file_lock import is_locked
from imageset.utils.text import format_count
from lightning_modules.tracking.client import is_tracking_shared

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = console.get_logger(__name__)

ENGINES, TRAININGS, DOWNLOADS = "engines", "train", "torchvision"  # in .cache
RUNNING = "RUNNING"
RECENT_S = 7 * 24 * 3600.0
RUN_FILE = "run.json"  # in a bundle's folder: the MLflow run that trained it


@dataclass(frozen=True)
class GcResult:
    """The lines of a command."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass
class KeptVersions:
    """The needs of the versions that serve, or to which a rollback within `gc.keep` goes back.

    Attributes:
        numbers: of the versions, by model.
        run_ids: of their trainings.
        objects: ids of DVC's objects: their bundles and datasets.
    """

    numbers: dict[str, set[int]] = field(default_factory=dict)
    run_ids: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)


def collect_garbage(project: Project, *, is_confirmed: bool) -> GcResult:
    """Remove what nothing needs, or show what that is.

    Args:
        project: the project; what other projects of the repository need stays.
        is_confirmed: whether to do it.

    Raises:
        UserError: something cannot be read, or a run is at work in a project of the repository.
    """
    keep = int(project.load_params("gc")["keep"])
    others = list_other_projects(project)
    with ExitStack() as stack:
        for member in (project, *others):
            stack.enter_context(member.lock())
        actions = list(find_garbage(project, others, keep))
        size = format_bytes(sum(action.num_bytes for action in actions))
        lines = [*describe_actions(actions, with_bytes=True)] or ["nothing to remove"]
        if actions and is_confirmed:
            for action in actions:
                action.run()
            lines.append(f"removed: {size}")
        elif actions:
            lines.append(f"together {size}; nothing was removed, `convoy gc --yes` does it")
    if any(action.place.startswith("DVC's remote") for action in actions):
        lines.append(
            "branches that were never fetched here, and other repositories on the same remote, are not known"
        )
    champions = format_count(keep, "earlier champion")
    lines.append(f"kept: what serves, {champions} (params.yaml: gc.keep), all branches and tags")
    return GcResult(tuple(lines))


def find_garbage(project: Project, others: Sequence[Project], keep: int) -> Iterator[Action]:
    """Yield what nothing needs.

    Args:
        project: the project.
        others: the other projects of the repository.
        keep: number of earlier champions.
    """
    client, stores = model_registry.connect_registry(project), open_stores(project)
    kept = find_kept_versions(client, project, keep)
    used = set(kept.objects)
    for member in (project, *others):
        used |= find_used_objects(member, stores, all_refs=True)
    for other in others:
        used |= find_kept_versions(client, other, int(other.load_params("gc")["keep"])).objects
    used = add_files(used, stores)
    kept.run_ids |= _find_runs_of_bundles(used, stores) | _read_own_run(project)
    for store in stores:
        for object_id in sorted(store.object_ids - used):
            text = "objects that no branch, tag or version needs"
            yield Action(store.name, text, partial(store.remove, [object_id]), store.measure(object_id))
    runs = artifacts.find_runs(client, project)
    yield from _find_runs(client, runs, kept)
    yield from _find_in_caches(project, kept, keep)


# ---- versions ---------------------------------------------------------------------------------------


def find_kept_versions(client: MlflowClient, project: Project, keep: int) -> KeptVersions:
    """Return the versions of a project's models that stay, and what they need.

    Args:
        client: of MLflow.
        project: the project.
        keep: number of earlier champions.
    """
    entries = ledger.read_ledger(project)
    names = {project.read_name(), project.read_dataset_name()}
    names |= {entry["model"] for entry in entries if "model" in entry}
    kept = KeptVersions()
    for name in sorted(names):
        aliases = {**ledger.find_serving(entries).get(name, {}), **model_registry.read_aliases(client, name)}
        chain = iter_champions(entries, name, aliases.get(CHAMPION), keep)
        numbers = {*aliases.values(), *chain}
        numbers |= {int(entry["version"]) for entry in ledger.find_unfinished(entries) if entry["model"] == name}
        kept.numbers[name] = numbers
        for number in numbers:
            _add_needs(kept, client, entries, name, number)
    return kept


def iter_champions(entries: list[ledger.LedgerEntry], name: str, champion: int | None, keep: int) -> Iterator[int]:
    """Yield the versions that rollbacks would let serve, one after the other, at most `keep`."""
    done = [entry for entry in ledger.find_completed(entries, name) if entry["event"] == ledger.DECISION]
    for _ in range(keep):
        decisions = [entry for entry in done if entry["after"].get(CHAMPION) == champion]
        earlier = decisions[0]["before"].get(CHAMPION) if decisions else None
        if earlier is None or earlier == champion:
            return
        champion = int(earlier)
        yield champion


def _add_needs(
    kept: KeptVersions, client: MlflowClient, entries: list[ledger.LedgerEntry], name: str, number: int
) -> None:
    version = model_registry.find_version(client, name, number)
    run_ids = {version.run_id} if version else set()
    for entry in entries:
        if entry.get("model") == name and entry.get("version") == number:
            run_ids |= {str(entry["run"])} if entry.get("run") else set()
            kept.objects |= {str(entry["dvc"])} if entry.get("dvc") else set()
    for run_id in run_ids:
        if model_registry.has_run(client, run_id):
            run = model_registry.find_run(client, run_id)
            kept.run_ids.add(run.info.run_id)
            inputs = run.inputs.dataset_inputs if run.inputs else []
            kept.objects |= {str(entry.dataset.digest) for entry in inputs}


def _find_runs_of_bundles(used: Iterable[str], stores: list[ObjectStore]) -> set[str]:
    """Return the MLflow runs that trained the bundles of branches and tags."""
    found = set()
    for folder in (object_id for object_id in used if object_id.endswith(FOLDER_SUFFIX)):
        if run_file := read_folder(stores, folder).get(RUN_FILE):
            found |= _read_run_id(find_bytes(stores, run_file))
    return found


def _read_own_run(project: Project) -> set[str]:
    path = project / CLASSIFIER / RUN_FILE
    return _read_run_id(path.read_bytes() if path.is_file() else None)


def _read_run_id(text: bytes | None) -> set[str]:
    try:
        return {str(json.loads(text or b"")["run_id"])}
    except (ValueError, KeyError, TypeError):
        return set()


# ---- MLflow -----------------------------------------------------------------------------------------


def _find_runs(client: MlflowClient, runs: list[Run], kept: KeptVersions) -> Iterator[Action]:
    for run in runs:
        is_active = run.info.lifecycle_stage == "active"
        if run.info.run_id in kept.run_ids or (is_active and _may_be_awaited(run)):
            continue
        versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
        if any(int(version.version) in kept.numbers.get(version.name, set()) for version in versions):
            continue
        folders = [artifacts.ArtifactFolder(run.info.artifact_uri, ""), *artifacts.iter_models(client, run)]
        size = sum(folder.measure() for folder in folders)
        if is_active or size:
            text = "runs and models that no version needs"
            yield Action("MLflow", text, partial(delete_run, client, run, folders, versions), size)


def _may_be_awaited(run: Run) -> bool:
    """Return whether a run is at work, or another clone that uses the same MLflow server may yet promote it."""
    age_s = time.time() - (run.info.end_time or 0) / 1000
    return run.info.status == RUNNING or (is_tracking_shared() and age_s < RECENT_S)


def delete_run(
    client: MlflowClient, run: Run, folders: Iterable[artifacts.ArtifactFolder], versions: Iterable[Any]
) -> None:
    """Delete a run as in MLflow's UI, its versions, and the files of its artifacts and models."""
    for version in versions:
        client.delete_model_version(version.name, str(version.version))
    if run.info.lifecycle_stage == "active":
        client.delete_run(run.info.run_id)
    for folder in folders:
        folder.clear()


# ---- caches of the project --------------------------------------------------------------------------


def _find_in_caches(project: Project, kept: KeptVersions, keep: int) -> Iterator[Action]:
    for path in iter_leftovers(project):
        yield Action.to_remove(project, path, "left by a process that was killed")
    names = tuple(f"{name}-{number}-" for name, numbers in kept.numbers.items() for number in numbers)
    answers = _list_folders(project / CACHE / PREDICTION_CACHE)
    yield from _remove_all(
        project, (path for path in answers if not path.name.startswith(names)), "answers of other versions"
    )
    yield from _remove_all(project, _list_folders(project / FEATURES)[1:], "features but the newest")
    engines = _list_folders(project / CACHE / ENGINES)[keep + 1 :]
    yield from _remove_all(project, engines, "engines of models but the newest")
    trainings = _list_folders(project / CACHE / TRAININGS)[1:]
    yield from _remove_all(
        project, (path for path in trainings if not is_locked(path / "lock")), "unfinished trainings but the last"
    )
    if not _needs_downloads(project):
        yield from _remove_all(
            project,
            [path for path in [project / CACHE / DOWNLOADS] if path.is_dir()],
            "downloads of other sources",
        )


def _list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, the newest first."""
    folders = [path for path in folder.glob("*") if path.is_dir()]
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _remove_all(project: Project, paths: Iterable[Path], text: str) -> Iterator[Action]:
    for path in paths:
        yield Action.to_remove(project, path, text, str(path.parent.relative_to(project.folder)))


def _needs_downloads(project: Project) -> bool:
    try:
        return dvc_repo.read_last_source(project).startswith("torchvision:")
    except UserError:
        return True
