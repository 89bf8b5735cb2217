"""Roll back to the previous champion, in seconds: only MLflow's client is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project import user
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry
from flows.promotion.model_registry import CHAMPION, COMPARED_VERSION_TAG, PREVIOUS, ROLLED_BACK_TAG, Version
from imageset.exceptions import UserError
from imageset.utils import timestamps

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = console.get_logger(__name__)


@dataclass(frozen=True)
class RollbackResult:
    """The version that serves again, the number of the version it replaced, and the duration in seconds."""

    serves: Version
    instead_of: int
    duration_s: float

    def __str__(self) -> str:
        return f"{self.serves} serves again, instead of version {self.instead_of} ({self.duration_s:.1f} s)"


def rollback(
    project: Project, model: str, reason: str | None = None, asked_at: str | None = None
) -> RollbackResult:
    """Make the version with the alias `previous` the champion.

    A second rollback goes back one more version, never forward: a version that was rolled back serves again only
    by `convoy promote RUN --override REASON`. Of several that were asked for at the same time, only one goes
    through.

    Args:
        project: the project's folder.
        model: registered name.
        reason: why, for the ledger.
        asked_at: when somebody asked for it, ISO 8601 in UTC; None for now.

    Raises:
        UserError: there is no champion or no previous version, the files of the previous version have changed, or
            the champion changed after `asked_at`.
    """
    begin, asked_at = time.monotonic(), asked_at or timestamps.format_utc_now()
    client = model_registry.connect_registry(project)
    with alias_updates.alias_lock(project):
        alias_updates.replay_unfinished(client, project, model)
        _check_unchanged_since(project, model, asked_at)
        now = model_registry.read_aliases(client, model)
        if CHAMPION not in now:
            model_registry.require_champion(client, model)
        if PREVIOUS not in now:
            raise UserError(
                f"nothing served before {model} version {now[CHAMPION]}; there is no version to roll back to"
            )
        before = model_registry.find_version(client, model, now[PREVIOUS])
        if before is None:
            raise UserError(f"{model} version {now[PREVIOUS]} was deleted; nothing was changed")
        _check_version_files(client, before)
        _apply_rollback(client, project, before, now, reason)
    return RollbackResult(before, now[CHAMPION], time.monotonic() - begin)


def _check_unchanged_since(project: Project, model: str, asked_at: str) -> None:
    """Raise UserError if the champion changed after the rollback was asked for: its author has not seen that."""
    for entry in ledger.find_completed(ledger.read_ledger(project), model):
        champion, former = entry["after"].get(CHAMPION), entry["before"].get(CHAMPION)
        if entry["done"] <= asked_at or champion == former:  # both in milliseconds
            continue
        event = (
            f"version {former} has just been rolled back to version {champion}"
            if entry["event"] == ledger.ROLLBACK
            else f"version {champion} has just become champion"
        )
        raise UserError(
            f"{model}: {event} ({entry['who']}, {entry['done'][:19]}Z), after this rollback was asked for; "
            "nothing more was changed; run `convoy rollback` again to go back from there"
        )


def _apply_rollback(
    client: MlflowClient, project: Project, before: Version, now: Mapping[str, int], reason: str | None
) -> None:
    replaced = now[CHAMPION]
    done = ledger.find_completed(ledger.read_ledger(project), before.name)
    earlier = _find_previous(done, before.number, replaced) or _find_compared(client, before, done, replaced)
    when = f"{timestamps.format_utc_now()[:19]}Z"
    entry = {
        "event": ledger.ROLLBACK, "model": before.name, "version": replaced, "serves": False, "run": before.run_id,
        "reason": reason or "rolled back by hand", "champion": replaced,
        "tags": {ROLLED_BACK_TAG: f"{when} by {user.identify_user()}: {reason or 'no reason given'}"},
    }  # fmt: skip
    after = {**now, CHAMPION: before.number, **({PREVIOUS: earlier} if earlier else {})}
    if not earlier:
        after.pop(PREVIOUS)
    alias_updates.update_aliases(client, project, entry, now, lambda _: after)
    logger.info("rollback: %s serves, version %s does not", before, replaced)


def _find_previous(done: list[ledger.LedgerEntry], number: int, replaced: int) -> int | None:
    """Return the champion before version `number` first became champion; never the version replaced now."""
    for entry in done:
        if entry["event"] == ledger.DECISION and entry["after"].get(CHAMPION) == number:
            earlier = entry["before"].get(CHAMPION)
            return earlier if earlier not in (number, replaced) else None
    return None


def _find_compared(
    client: MlflowClient, version: Version, done: list[ledger.LedgerEntry], replaced: int
) -> int | None:
    """Return the champion that a version replaced by its tags, where no decision about it is known any more.

    MLflow keeps no records of an earlier Convoy, and a clone may have no ledger.
    """
    if any(entry["event"] == ledger.DECISION and entry["version"] == version.number for entry in done):
        return None
    text = version.tags.get(COMPARED_VERSION_TAG, "")
    found = model_registry.find_version(client, version.name, int(text)) if text.isdigit() else None
    is_usable = found is not None and found.number not in (version.number, replaced)
    return found.number if found is not None and is_usable and not found.tags.get(ROLLED_BACK_TAG) else None


def _check_version_files(client: MlflowClient, version: Version) -> None:
    """Check the digests of a version's bundle; that it predicts was tested when it was promoted."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from lightning_modules.bundle import check_bundle

    try:
        folder = Path(download_artifacts(artifact_uri=f"{version.uri}/artifacts/bundle"))
    except (MlflowException, OSError) as error:
        message = str(error).strip().splitlines()[0][:200]
        raise UserError(f"MLflow cannot load {version} ({message}); nothing was changed") from None
    check_bundle(folder)
