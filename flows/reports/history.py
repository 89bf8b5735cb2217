"""History: what the ledger says about who served when. Needs no MLflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.promotion import ledger
from flows.promotion.model_registry import CHAMPION
from imageset.exceptions import UserError
from imageset.utils.timestamps import format_local_time


def report_history(project: Path, model: str | None = None, at: str | None = None) -> str:
    """What served at a date, or (None) every decision, as lines of text.

    Args:
        model: one registered model; None for all.
        at: a day (its end counts) or a time in ISO 8601; one without a zone is local time.

    Raises:
        UserError: no such model, nothing served then, or not a date.
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
    moves = [one for one in entries if one["event"] in ledger.MOVE_EVENTS and one["model"] in chosen]
    return "\n".join(_format_entry(one, one["number"] in done, dropped.get(one["number"])) for one in moves)


def report_served_at(entries: list[ledger.LedgerEntry], models: list[str], at: str) -> str:
    """One line a model: what served at a time, since when, and why."""
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
    """The last move up to a moment that changed what serves."""
    changes = [
        one
        for one in ledger.find_completed(entries, model)
        if one["before"].get(CHAMPION) != one["after"].get(CHAMPION)
        and datetime.fromisoformat(one["done"]) <= moment
    ]
    return changes[-1] if changes else None


def _format_entry(entry: ledger.LedgerEntry, done: bool, dropped: str | None) -> str:
    number, champion = entry["version"], entry["before"].get(CHAMPION)
    if entry["event"] == ledger.ROLLBACK:
        what = f"version {number} rolled back to version {entry['after'].get(CHAMPION)}"
    elif entry["serves"]:
        what = f"version {number} serves" + (f" instead of version {champion}" if champion else "")
    else:
        what = f"version {number} does not serve"
    state = "" if done else f" [not carried out: {dropped or 'the next promotion finishes it'}]"
    return (
        f"{format_local_time(entry['time'])}  {entry['model']} {what}: {entry['reason']} ({entry['who']}){state}"
    )


def _parse_moment(at: str) -> datetime:
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        raise UserError(f"--at {at}: not a date; write e.g. 2026-03-01 or 2026-03-01T14:30") from None
    if len(at) <= len("2026-03-01"):
        found += timedelta(days=1, microseconds=-1)
    return found.astimezone(UTC)
