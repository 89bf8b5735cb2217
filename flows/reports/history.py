"""`convoy history`: the decisions in the ledger, and what served at a given time. MLflow is not needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flows.project.project import Project
from flows.promotion import ledger
from flows.promotion.model_registry import CHAMPION
from imageset.exceptions import UserError
from imageset.utils.timestamps import format_local_time


def report_history(project: Project, model: str | None = None, at: str | None = None) -> str:
    """Return every decision, or what served at a given time, as lines of text.

    Args:
        project: the project's folder.
        model: one registered model; None for all.
        at: a day (its end counts) or a time in ISO 8601; local time if it has no time zone. None for every
            decision.

    Raises:
        UserError: no such model, no decision yet, or not a date.
    """
    entries = ledger.read_ledger(project)
    known = sorted({entry["model"] for entry in entries if entry["event"] in ledger.MOVE_EVENTS})
    if not known:
        raise UserError(f"{ledger.LEDGER}: nothing was decided yet; train and promote with `convoy run FOLDER`")
    if model is not None and model not in known:
        raise UserError(f"no decision about a model {model!r}; there are: {', '.join(known)}")
    chosen = [model] if model else known
    if at is not None:
        return report_served_at(entries, chosen, at)
    done = {entry["number"]: entry for entry in ledger.find_completed(entries)}
    dropped = {entry["of"]: entry["reason"] for entry in entries if entry["event"] == ledger.DROPPED}
    moves = [entry for entry in entries if entry["event"] in ledger.MOVE_EVENTS and entry["model"] in chosen]
    lines = (_format_entry(entry, entry["number"] in done, dropped.get(entry["number"])) for entry in moves)
    return "\n".join(lines)


def report_served_at(entries: list[ledger.LedgerEntry], models: list[str], at: str) -> str:
    """Return one line for each model: what served at a time, since when, and why."""
    moment = _parse_moment(at)
    lines = []
    for model in models:
        change = find_last_change(entries, model, moment)
        if change is None or CHAMPION not in change["after"]:
            lines.append(f"{model}: nothing served")
        else:
            lines.append(
                f"{model} version {change['after'][CHAMPION]} served, since {format_local_time(change['done'])}: "
                f"{change['reason']} ({change['who']})"
            )
    return "\n".join(lines)


def find_last_change(entries: list[ledger.LedgerEntry], model: str, moment: datetime) -> ledger.LedgerEntry | None:
    """Return the last decision up to a moment that changed the champion, or None."""
    changes = [
        entry
        for entry in ledger.find_completed(entries, model)
        if entry["before"].get(CHAMPION) != entry["after"].get(CHAMPION)
        and datetime.fromisoformat(entry["done"]) <= moment
    ]
    return changes[-1] if changes else None


def _format_entry(entry: ledger.LedgerEntry, done: bool, dropped: str | None) -> str:
    number, champion = entry["version"], entry["before"].get(CHAMPION)
    if entry["event"] == ledger.ROLLBACK:
        outcome = f"version {number} rolled back to version {entry['after'].get(CHAMPION)}"
    elif entry["serves"]:
        outcome = f"version {number} serves" + (f" instead of version {champion}" if champion else "")
    else:
        outcome = f"version {number} does not serve"
    state = "" if done else f" [not completed: {dropped or 'the next promotion completes it'}]"
    decision = f"{entry['model']} {outcome}: {entry['reason']} ({entry['who']})"
    return f"{format_local_time(entry['time'])}  {decision}{state}"


def _parse_moment(at: str) -> datetime:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise UserError(f"--at {at}: not a date; write e.g. 2026-03-01 or 2026-03-01T14:30") from None
    if len(at) <= len("2026-03-01"):
        moment += timedelta(days=1, microseconds=-1)
    return moment.astimezone(UTC)
