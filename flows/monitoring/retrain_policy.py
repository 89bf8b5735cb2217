"""Decide when drift triggers a retrain, as a pure function of earlier batches and earlier retrains.

A retrain counts for the cooldown and for the budget if it trained, or was killed and may have trained. One that
found another run at work, or trained nothing, counts for neither. After one that failed, the next waits an hour,
then two, four ..., at most a day, so that a source that is away for a night is not asked every hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flows.promotion.ledger import RETRAIN, RETRAINED

DRIFTED, CLEAN, TOO_SMALL = "drifted", "clean", "too small"  # states of a batch
BUDGET_DAYS = 30
FIRST_RETRY_HOURS, MAX_RETRY_HOURS = 1, 24  # after a retrain that failed; the wait doubles with each
FAILED_PREFIX = "failed: "  # of the outcome of a retrain, in the ledger


@dataclass(frozen=True)
class RetrainPolicy:
    """When drift triggers a retrain; the section monitor.retrain of params.yaml."""

    enabled: bool
    batches_in_a_row: int
    cooldown_hours: float
    max_per_30_days: int


@dataclass(frozen=True)
class RetrainDecision:
    """The decision whether to retrain, and its reason."""

    retrain: bool
    reason: str


@dataclass(frozen=True)
class RetrainHistory:
    """When earlier retrains started, in any order.

    Attributes:
        trained: of those that trained, or were killed and may have trained.
        failed: of those that ended with an error before they trained.
    """

    trained: Sequence[datetime] = ()
    failed: Sequence[datetime] = ()


def read_retrain_history(entries: Sequence[dict[str, Any]]) -> RetrainHistory:
    """Return when the retrains in some entries of the ledger started.

    The outcome of an older Convoy does not say whether it trained; it counts unless it failed or did not begin.
    """
    outcomes = {entry["of"]: entry for entry in entries if entry["event"] == RETRAINED}
    trained, failed = [], []
    for entry in entries:
        if entry["event"] != RETRAIN:
            continue
        start, outcome = datetime.fromisoformat(entry["time"]), outcomes.get(entry["number"])
        has_failed = outcome is not None and outcome["reason"].startswith(FAILED_PREFIX)
        if outcome is None or outcome.get("trained", outcome["begun"] and not has_failed):
            trained.append(start)
        elif has_failed:
            failed.append(start)
    return RetrainHistory(trained, failed)


def decide_retrain(
    policy: RetrainPolicy, batches: Sequence[dict[str, Any]], history: RetrainHistory, now: datetime
) -> RetrainDecision:
    """Decide whether to retrain after the last of some batches.

    Args:
        policy: the policy of params.yaml.
        batches: entries of one model version, the oldest first.
        history: the retrains that drift triggered.
        now: the time of the decision.
    """
    num_drifted = count_drifted_in_a_row(batches)
    if not num_drifted:
        return RetrainDecision(False, "no drift")
    if not policy.enabled:
        return RetrainDecision(False, "monitor.retrain.enabled is false")
    if num_drifted < policy.batches_in_a_row:
        return RetrainDecision(False, f"{num_drifted} of {policy.batches_in_a_row} drifted batches in a row")
    last = max(history.trained, default=None)
    if last is not None and now < (end := last + timedelta(hours=policy.cooldown_hours)):
        return RetrainDecision(False, f"the last retrain cools down until {_format_minute(end)}")
    recent = [start for start in history.trained if now - start < timedelta(days=BUDGET_DAYS)]
    if len(recent) >= policy.max_per_30_days:
        return RetrainDecision(False, f"{len(recent)} retrains in {BUDGET_DAYS} days are the whole budget")
    retry = find_retry_time(history)
    if retry is not None and now < retry:
        return RetrainDecision(False, f"the last retrain failed; the next try is from {_format_minute(retry)} on")
    return RetrainDecision(True, f"{num_drifted} drifted {'batch' if num_drifted == 1 else 'batches in a row'}")


def find_retry_time(history: RetrainHistory) -> datetime | None:
    """Return when a retrain may be tried again after failures since the last one that trained; None: now."""
    failures = [start for start in history.failed if start > max(history.trained, default=start - timedelta(1))]
    if not failures:
        return None
    hours = min(FIRST_RETRY_HOURS * 2 ** (len(failures) - 1), MAX_RETRY_HOURS)
    return max(failures) + timedelta(hours=hours)


def _format_minute(time: datetime) -> str:
    return time.astimezone().isoformat(" ", "minutes")


def count_drifted_in_a_row(batches: Sequence[dict[str, Any]]) -> int:
    """Return the number of drifted batches at the end; batches that are too small are ignored."""
    num = 0
    for batch in reversed([batch for batch in batches if batch["state"] != TOO_SMALL]):
        if batch["state"] != DRIFTED:
            break
        num += 1
    return num
