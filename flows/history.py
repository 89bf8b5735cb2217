"""History: what the ledger says about who served when. Needs no MLflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows import ledger
from flows.registry import CHAMPION
from imageset.errors import UserError


def history(project: Path, model: str | None = None, at: str | None = None) -> str:
    """What served at a date, or (None) every decision, as lines of text.

    Args:
        model: one registered model; None for all.
        at: a day (its end counts) or a time in ISO 8601; one without a zone is local time.

    Raises:
        UserError: no such model, nothing served then, or not a date.
    """
    entries = ledger.read(project)
    known = sorted({entry["model"] for entry in entries if entry["event"] in ledger.MOVES})
    if not known:
        raise UserError(f"{ledger.LEDGER}: nothing was decided yet; train and promote with `convoy run FOLDER`")
    if model is not None and model not in known:
        raise UserError(f"no decision about a model {model!r}; there are: {', '.join(known)}")
    chosen = [model] if model else known
    if at is not None:
        return served_at(entries, chosen, at)
    done = {entry["number"]: entry for entry in ledger.carried_out(entries)}
    dropped = {entry["of"]: entry["reason"] for entry in entries if entry["event"] == ledger.DROPPED}
    moves = [one for one in entries if one["event"] in ledger.MOVES and one["model"] in chosen]
    return "\n".join(_line(one, one["number"] in done, dropped.get(one["number"])) for one in moves)


def served_at(entries: list[ledger.Entry], models: list[str], at: str) -> str:
    """One line a model: what served at a time, since when, and why."""
    moment = _moment(at)
    lines = []
    for model in models:
        change = last_change(entries, model, moment)
        if change is None or CHAMPION not in change["after"]:
            lines.append(f"{model}: nothing served")
        else:
            lines.append(
                f"{model} version {change['after'][CHAMPION]} served, since {shown(change['done'])}: "
                f"{change['reason']} ({change['who']})"
            )
    return "\n".join(lines)


def last_change(entries: list[ledger.Entry], model: str, moment: datetime) -> ledger.Entry | None:
    """The last move up to a moment that changed what serves."""
    changes = [
        one
        for one in ledger.carried_out(entries, model)
        if one["before"].get(CHAMPION) != one["after"].get(CHAMPION)
        and datetime.fromisoformat(one["done"]) <= moment
    ]
    return changes[-1] if changes else None


def _line(entry: ledger.Entry, done: bool, dropped: str | None) -> str:
    number, champion = entry["version"], entry["before"].get(CHAMPION)
    if entry["event"] == ledger.ROLLBACK:
        what = f"version {number} rolled back to version {entry['after'].get(CHAMPION)}"
    elif entry["serves"]:
        what = f"version {number} serves" + (f" instead of version {champion}" if champion else "")
    else:
        what = f"version {number} does not serve"
    state = "" if done else f" [not carried out: {dropped or 'the next promotion finishes it'}]"
    return f"{shown(entry['time'])}  {entry['model']} {what}: {entry['reason']} ({entry['who']}){state}"


def shown(time: str) -> str:
    """A time of the ledger as a person reads it: local, to the second."""
    return datetime.fromisoformat(time).astimezone().isoformat(sep=" ", timespec="seconds")


def _moment(at: str) -> datetime:
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        raise UserError(f"--at {at}: not a date; write e.g. 2026-03-01 or 2026-03-01T14:30") from None
    if len(at) <= len("2026-03-01"):
        found += timedelta(days=1, microseconds=-1)
    return found.astimezone(UTC)
