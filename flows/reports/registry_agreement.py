"""Compare what MLflow's registry, the ledger and the files of a model say; no library is loaded for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows.orchestration import local_databases
from flows.orchestration.local_databases import RegisteredModel
from flows.promotion import ledger, registry_records
from flows.promotion.model_registry import CHAMPION, PREVIOUS
from imageset.utils.text import format_count

RESTORING = "the next `convoy predict`, `promote` or `run` restores"
MOVE_AWAY = f"`mv {ledger.LEDGER} {ledger.LEDGER}.changed`"


def find_disagreements(
    entries: list[ledger.LedgerEntry], name: str, model: RegisteredModel, database: Path | None
) -> Iterator[str]:
    """Yield a line for each thing that does not agree about a registered model, with its remedy.

    Args:
        entries: the ledger.
        name: of the registered model.
        model: its aliases and tags in MLflow.
        database: MLflow's own file; None for a server, whose files only the server sees.
    """
    records = [record for record in registry_records.parse_records(model.tags) if record["model"] == name]
    missing = registry_records.find_missing(entries, records)
    if missing:
        yield describe_missing(name, len(missing))
    for entry in registry_records.find_unrecorded(entries, records, name):
        yield (
            f"{ledger.LEDGER}: line {entry['number']}, about {name} version {entry['version']}, is not what "
            f"MLflow records: it was changed, or MLflow's database is an earlier one; {MOVE_AWAY}, and the next "
            "`convoy predict`, `promote` or `rollback` writes the ledger again from MLflow"
        )
    if not missing:
        yield from _compare_aliases(entries, name, model)
    if database is not None:
        yield from _find_lost_files(name, model, database)


def describe_missing(name: str, num_missing: int) -> str:
    """Describe decisions that MLflow records of a model and the ledger does not have, with the remedy."""
    return (
        f"{name}: MLflow records {format_count(num_missing, 'decision')} that {ledger.LEDGER} does not have, made "
        "in another clone, or cut off here; the next `convoy predict`, `promote` or `rollback` adds them"
    )


def _compare_aliases(entries: list[ledger.LedgerEntry], name: str, model: RegisteredModel) -> Iterator[str]:
    done = ledger.find_completed(entries, name)
    if not done or any(entry["model"] == name for entry in ledger.find_unfinished(entries)):
        return
    for alias in (CHAMPION, PREVIOUS):
        in_mlflow, in_ledger = model.aliases.get(alias), done[-1]["after"].get(alias)
        if in_mlflow == in_ledger:
            continue
        if alias == CHAMPION and in_mlflow is None:  # nothing serves; `convoy status` says so
            return
        verb = "serves" if alias == CHAMPION else f"has the alias {PREVIOUS}"
        yield (
            f"{name}: version {in_mlflow} {verb}, but the ledger records version {in_ledger}: somebody moved the "
            "alias by hand; `convoy promote RUN --override REASON` and `convoy rollback` set both"
        )


def _find_lost_files(name: str, model: RegisteredModel, database: Path) -> Iterator[str]:
    for alias in (CHAMPION, PREVIOUS):
        if (version := model.aliases.get(alias)) is None:
            continue
        if lost := local_databases.list_lost_files(database, name, version):
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            yield f"{name} version {version} ({alias}): {lost[0]}{more} is missing; {RESTORING} it from DVC"
