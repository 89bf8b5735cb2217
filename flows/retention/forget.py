"""Forget pictures: remove them, and what was made of them, from everything that Convoy can reach.

The order of the steps lets a command that was killed be called again: the journal is first; the list that ingest
reads is next, so that no picture comes back; DVC's tables, by which the other objects are found, are last.
See docs/decisions/0022.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flows.notifications import console, problems
from flows.project.paths import PARAMS, RAW
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.retention import project_files
from flows.retention.actions import Action, describe_actions
from flows.retention.byte_search import ByteSearch
from flows.retention.final_search import SearchResult, search_everything
from flows.retention.journal import Journal, load_journal, remove_journal
from flows.retention.pictures import check_known, collect_contents, resolve_pictures
from flows.retention.stores import artifacts
from flows.retention.stores.dataset_versions import Holdings, find_holdings
from flows.retention.stores.object_store import ObjectStore, open_stores
from flows.retention.stores.shared_objects import find_objects_of_others
from flows.versioning.forgotten_list import FORGOTTEN, add_forgotten, read_forgotten
from imageset.exceptions import UserError
from imageset.params import check_convoy_version
from imageset.utils.text import format_count
from imageset.utils.timestamps import format_utc_now
from lightning_modules.tracking import offline_queue

logger = console.get_logger(__name__)

UNREACHED = (
    "not reached, and yours to do: the source itself, tables of predictions, other clones and their caches, git's "
    "history of small files, backups, earlier versions that a storage service keeps (such as S3's)"
)
NEXT_STEPS = (
    f"next: commit {FORGOTTEN}, {RAW}.dvc, dvc.lock and {ledger.LEDGER} to git; `dvc push` if there is a remote"
)


@dataclass(frozen=True)
class ForgetPlan:
    """Everything that is to be done.

    Attributes:
        journal: the pictures.
        actions: in their order.
        kept: objects that stay, since another project of the repository needs them, by the project's name.
        client: of MLflow.
        is_repeated: whether all of it was forgotten before, and nothing is left to do.
    """

    journal: Journal
    actions: list[Action]
    kept: dict[str, set[str]]
    client: Any
    is_repeated: bool


@dataclass(frozen=True)
class ForgetResult:
    """The lines of a command, and whether a copy is left in a place that is not Convoy's."""

    lines: tuple[str, ...]
    is_complete: bool = True

    def __str__(self) -> str:
        return "\n".join(self.lines)


def forget(project: Project, words: Sequence[str], here: Path, *, is_confirmed: bool) -> ForgetResult:
    """Forget pictures, or show what that would do.

    Args:
        project: the project.
        words: image_ids, paths of files with the same bytes, or names in the source; none: what a command was
            forgetting that was killed.
        here: the folder that paths begin at.
        is_confirmed: whether to do it.

    Raises:
        UserError: a picture is unknown, something cannot be read or removed, or another run is at work.
    """
    check_convoy_version(project / PARAMS)
    with project.lock():
        project_files.restore_folders(project)
        pending = load_journal(project)
        given = resolve_pictures(project, words, here)
        if not given and pending is None:
            raise UserError("name a picture to forget: its image_id, a file, or --list FILE")
        if any(offline_queue.count_waiting(project.folder).values()):
            raise UserError("a training waits to be sent to MLflow's server, with its pages; `convoy sync` first")
        plan = make_plan(project, given, pending)
        if not is_confirmed:
            return ForgetResult((*describe_plan(plan), "nothing was changed; `--yes` does it"))
        with problems.track_problem(project, "forget", "`convoy forget --yes` completes it"):
            return execute_plan(project, plan)


def make_plan(project: Project, given: dict[str, bytes | None], pending: Journal | None) -> ForgetPlan:
    """Find everything that holds the pictures; nothing is changed.

    Args:
        project: the project.
        given: the bytes by image_id; None if only the image_id was given.
        pending: the journal of a command that was killed.
    """
    image_ids = frozenset(given) | (pending.image_ids if pending else frozenset())
    client, stores = model_registry.connect_registry(project), open_stores(project)
    holdings = find_holdings(project, stores, image_ids, pending.folders if pending else ())
    runs = artifacts.find_runs(client, project)
    models = artifacts.find_trained_models(client, runs, image_ids)
    contents = collect_contents(project, stores, given, holdings)
    check_known(project, given, holdings, contents)
    journal = Journal(
        image_ids,
        format_utc_now(),
        frozenset(holdings.folders),
        tuple({"model": model.name, "version": model.version, "run": model.run_id} for model in models),
        frozenset(contents),
    )
    journal = journal if pending is None else journal.merge(pending)
    search = ByteSearch.of(journal.contents)
    actions = [*project_files.find_actions(project, image_ids, holdings, stores)]
    actions += artifacts.find_actions(client, project, runs, image_ids, holdings, search)
    others = find_objects_of_others(project, stores)
    kept = {name: ids & (holdings.objects | holdings.tables) for name, ids in others.items()}
    actions += _find_object_actions(stores, holdings, set().union(*kept.values()))
    is_repeated = pending is None and not actions and image_ids <= read_forgotten(project)
    return ForgetPlan(journal, actions, {name: ids for name, ids in kept.items() if ids}, client, is_repeated)


def _find_object_actions(stores: list[ObjectStore], holdings: Holdings, kept: set[str]) -> Iterator[Action]:
    for object_ids in (holdings.objects, holdings.tables):
        for store in stores:
            for object_id in sorted((object_ids - kept) & store.object_ids):
                text = "objects of earlier versions that hold it are removed"
                yield Action(store.name, text, partial(store.remove, [object_id]), store.measure(object_id))


def describe_plan(plan: ForgetPlan) -> Iterator[str]:
    """Yield the lines that say what is to be done."""
    yield f"to forget: {format_count(len(plan.journal.image_ids), 'picture')}"
    yield from (f"  {image_id}" for image_id in sorted(plan.journal.image_ids)[:10])
    if len(plan.journal.image_ids) > 10:
        yield f"  and {len(plan.journal.image_ids) - 10:,} more"
    yield from describe_actions(plan.actions, with_bytes=False)
    if plan.is_repeated:
        yield "forgotten before; nothing here holds it"
    elif not plan.actions:
        yield "nothing here holds it; ingest will leave it out"
    if any(action.place.startswith("DVC's") for action in plan.actions):
        yield "earlier commits that had it can then not be checked out whole; `dvc checkout` there says so"
    yield from describe_rest(plan)


def describe_rest(plan: ForgetPlan) -> Iterator[str]:
    """Yield the lines about what stays."""
    yield from describe_models(plan.journal)
    yield from (
        f"project {name} needs {format_count(len(ids), 'object')} that hold it, so they stay; forget it there: "
        f"`convoy -C {name} forget ...`"
        for name, ids in sorted(plan.kept.items())
    )
    yield UNREACHED


def describe_models(journal: Journal) -> Iterator[str]:
    """Yield the lines about the models that learnt from the pictures."""
    for model in journal.models:
        version = "never registered" if model["version"] is None else f"version {model['version']}"
        yield f"learnt from it: {model['model']} {version} (run {model['run'][:12]})"
    if journal.models:
        yield "their weights stay; `convoy run` trains a model without it, and promotes it by the same rules"


def execute_plan(project: Project, plan: ForgetPlan) -> ForgetResult:
    """Do everything of a plan, search, and record it."""
    journal = plan.journal
    journal.save(project)
    add_forgotten(project, journal.image_ids)
    logged: set[str] = set()
    for action in plan.actions:
        if (line := f"forget: {action.place}: {action.text}") not in logged:
            logger.info(line)
            logged.add(line)
        action.run()
    runs = artifacts.find_runs(plan.client, project)
    kept = set().union(*plan.kept.values())
    logger.info("forget: searching for what is left")
    result = search_everything(project, journal, open_stores(project), plan.client, runs, kept)
    if not plan.is_repeated:
        record(project, journal, result)
    remove_journal(project)
    return ForgetResult((*describe_result(plan, result),), is_complete=not result.left)


def record(project: Project, journal: Journal, result: SearchResult) -> None:
    """Write to the ledger that pictures were forgotten, unless a command did that was killed after it."""
    text = journal.started + "".join(sorted(journal.image_ids))
    number = hashlib.sha256(text.encode()).hexdigest()[:16]
    if any(entry.get("operation") == number for entry in ledger.read_ledger(project)):
        return
    entry = {
        "event": ledger.FORGOTTEN,
        "operation": number,
        "image_ids": sorted(journal.image_ids),
        "learnt_by": list(journal.models),
        "searched": result.num_files,
        "left": len(result.left),
    }
    ledger.append_entry(project, entry)


def describe_result(plan: ForgetPlan, result: SearchResult) -> Iterator[str]:
    """Yield the lines that say what was done."""
    note = "it was before" if plan.is_repeated else "the ledger says so"
    yield f"forgotten: {format_count(len(plan.journal.image_ids), 'picture')}; {note}"
    yield from describe_actions(plan.actions, with_bytes=False)
    yield from result.describe()
    yield from describe_rest(plan)
    if not plan.is_repeated:
        yield NEXT_STEPS
