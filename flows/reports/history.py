"""`convoy history`: the decisions in the ledger, and what served at a given time. MLflow is not needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flows.project.project import Project
from flows.promotion import ledger
from flows.promotion.model_registry import CHAMPION
from imageset.exceptions import UserError
from imageset.utils.timestamps import format_local_time


@dataclass(frozen=True)
class HistoryResult:
    """Every decision, or what served at a given time: lines of text, and the same as values.

    Attributes:
        at: the time that was asked for; None for every decision.
        lines: one for each decision, or for each model.
        values: of the lines.
    """

    at: str | None
    lines: list[str]
    values: list[dict[str, Any]]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON; `decisions` is null with --at, `served` without.

        at: the argument of --at, or null.
        decisions: in their order {number, time, event, model, version, run_id, serves, champion_before,
            champion_after, reason, who, completed}.
        served: for each model {model, version, since, reason, who}; null but for the model if nothing served.
        """
        return {
            "at": self.at,
            "decisions": self.values if self.at is None else None,
            "served": None if self.at is None else self.values,
        }


def report_history(project: Project, model: str | None = None, at: str | None = None) -> str:
    """Return every decision, or what served at a given time, as lines of text; see `read_history`."""
    return str(read_history(project, model, at))


def read_history(project: Project, model: str | None = None, at: str | None = None) -> HistoryResult:
    """Read every decision, or what served at a given time.

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
        return _read_served_at(entries, chosen, at)
    done = {entry["number"]: entry for entry in ledger.find_completed(entries)}
    dropped = {entry["of"]: entry["reason"] for entry in entries if entry["event"] == ledger.DROPPED}
    moves = [entry for entry in entries if entry["event"] in ledger.MOVE_EVENTS and entry["model"] in chosen]
    lines = [_format_entry(entry, entry["number"] in done, dropped.get(entry["number"])) for entry in moves]
    return HistoryResult(None, lines, [_describe_entry(entry, done.get(entry["number"])) for entry in moves])


def _read_served_at(entries: list[ledger.LedgerEntry], models: list[str], at: str) -> HistoryResult:
    """Return one line for each model: what served at a time, since when, and why."""
    moment = _parse_moment(at)
    lines, values = [], []
    for model in models:
        change = find_last_change(entries, model, moment)
        if change is None or CHAMPION not in change["after"]:
            lines.append(f"{model}: nothing served")
            values.append({"model": model, "version": None, "since": None, "reason": None, "who": None})
        else:
            version, since = change["after"][CHAMPION], change["done"]
            lines.append(
                f"{model} version {version} served, since {format_local_time(since)}: "
                f"{change['reason']} ({change['who']})"
            )
            about = {key: change[key] for key in ("reason", "who")}
            values.append({"model": model, "version": version, "since": since, **about})
    return HistoryResult(at, lines, values)


def find_last_change(entries: list[ledger.LedgerEntry], model: str, moment: datetime) -> ledger.LedgerEntry | None:
    """Return the last decision up to a moment that changed the champion, or None."""
    changes = [
        entry
        for entry in ledger.find_completed(entries, model)
        if entry["before"].get(CHAMPION) != entry["after"].get(CHAMPION)
        and datetime.fromisoformat(entry["done"]) <= moment
    ]
    return changes[-1] if changes else None


def _describe_entry(entry: ledger.LedgerEntry, completed: ledger.LedgerEntry | None) -> dict[str, Any]:
    """Return the values of a decision for JSON."""
    return {
        **{key: entry.get(key) for key in ("number", "time", "event", "model", "version")},
        "run_id": entry.get("run"),
        "serves": entry.get("serves"),
        "champion_before": entry["before"].get(CHAMPION),
        "champion_after": entry["after"].get(CHAMPION),
        **{key: entry.get(key) for key in ("reason", "who")},
        "completed": completed is not None,
    }


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
