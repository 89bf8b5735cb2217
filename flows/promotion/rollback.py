"""Rollback: the version that served before serves again, in seconds; nothing is loaded but MLflow's client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.notifications import console
from flows.project import user
from flows.promotion import alias_updates, ledger, model_registry
from flows.promotion.model_registry import CHAMPION, PREVIOUS, ROLLED_BACK_TAG, Version
from imageset.exceptions import UserError
from imageset.utils import timestamps

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = console.get_logger(__name__)


@dataclass(frozen=True)
class RollbackResult:
    """What serves again, instead of what, and how long it took."""

    serves: Version
    instead_of: int
    duration_s: float

    def __str__(self) -> str:
        return f"{self.serves} serves again, instead of version {self.instead_of} ({self.duration_s:.1f} s)"


def rollback(project: Path, model: str, reason: str | None = None) -> RollbackResult:
    """Let `previous` serve. A second rollback goes one further back, never forward again: what was rolled back
    serves again only by `convoy promote RUN --override REASON`.

    Raises:
        UserError: nothing serves, nothing served before it, or the files of that version are not what they were.
    """
    begin = time.monotonic()
    client = model_registry.connect_registry(project)
    with alias_updates.alias_lock(project):
        alias_updates.replay_unfinished(client, project)
        now = model_registry.read_aliases(client, model)
        if CHAMPION not in now:
            model_registry.require_champion(client, model)
        if PREVIOUS not in now:
            raise UserError(
                f"nothing served before {model} version {now[CHAMPION]}; there is nothing to go back to"
            )
        before = model_registry.find_version(client, model, now[PREVIOUS])
        if before is None:
            raise UserError(f"{model} version {now[PREVIOUS]} was deleted; nothing was changed")
        _check_version_files(client, before)
        _apply_rollback(client, project, before, now, reason)
    return RollbackResult(before, now[CHAMPION], time.monotonic() - begin)


def _apply_rollback(
    client: MlflowClient, project: Path, before: Version, now: Mapping[str, int], reason: str | None
) -> None:
    gone = now[CHAMPION]
    further = _find_previous(ledger.find_completed(ledger.read_ledger(project), before.name), before.number, gone)
    entry = {
        "event": ledger.ROLLBACK, "model": before.name, "version": gone, "serves": False, "run": before.run_id,
        "reason": reason or "rolled back by hand", "champion": gone,
        "tags": {ROLLED_BACK_TAG: f"{timestamps.format_utc_now()[:19]}Z by {user.identify_user()}: {reason or 'no reason given'}"},
    }  # fmt: skip
    after = {**now, CHAMPION: before.number, **({PREVIOUS: further} if further else {})}
    if not further:
        after.pop(PREVIOUS)
    alias_updates.update_aliases(client, project, entry, now, lambda _: after)
    logger.info("rollback: %s serves, version %s does not", before, gone)


def _find_previous(done: list[ledger.LedgerEntry], number: int, gone: int) -> int | None:
    """What served before version `number` first became champion, as the ledger says; never what now leaves."""
    for entry in done:
        if entry["event"] == ledger.DECISION and entry["after"].get(CHAMPION) == number:
            earlier = entry["before"].get(CHAMPION)
            return earlier if earlier not in (number, gone) else None
    return None


def _check_version_files(client: MlflowClient, version: Version) -> None:
    """Its digests are checked; that it predicts was seen when it was promoted."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from lightning_modules.bundle import check_bundle

    try:
        folder = Path(download_artifacts(artifact_uri=f"{version.uri}/artifacts/bundle"))
    except (MlflowException, OSError) as error:
        said = str(error).strip().splitlines()[0][:200]
        raise UserError(f"MLflow cannot give {version} ({said}); nothing was changed") from None
    check_bundle(folder)
