"""When drift is reason enough to train again: pure functions of what was judged and of what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

DRIFTED, CLEAN, TOO_SMALL = "drifted", "clean", "too small"  # what is said of a batch
BUDGET_DAYS = 30


@dataclass(frozen=True)
class RetrainPolicy:
    """See params.yaml: monitor.retrain."""

    enabled: bool
    batches_in_a_row: int
    cooldown_hours: float
    max_per_30_days: int


@dataclass(frozen=True)
class RetrainDecision:
    """Whether to train again, and why or why not."""

    retrain: bool
    reason: str


def decide_retrain(
    policy: RetrainPolicy, batches: Sequence[dict[str, Any]], retrains: Sequence[datetime], now: datetime
) -> RetrainDecision:
    """What is to be done after the last of some batches.

    Args:
        batches: rows of one model version, the oldest first.
        retrains: when a retrain was begun because of drift, the oldest first.
    """
    row = count_drifted_in_a_row(batches)
    if not row:
        return RetrainDecision(False, "no drift")
    if not policy.enabled:
        return RetrainDecision(False, "monitor.retrain.enabled is false")
    if row < policy.batches_in_a_row:
        return RetrainDecision(False, f"{row} of {policy.batches_in_a_row} drifted batches in a row")
    if retrains and now - retrains[-1] < timedelta(hours=policy.cooldown_hours):
        end = retrains[-1] + timedelta(hours=policy.cooldown_hours)
        return RetrainDecision(
            False, f"the last retrain cools down until {end.astimezone().isoformat(' ', 'minutes')}"
        )
    lately = [one for one in retrains if now - one < timedelta(days=BUDGET_DAYS)]
    if len(lately) >= policy.max_per_30_days:
        return RetrainDecision(False, f"{len(lately)} retrains in {BUDGET_DAYS} days are the whole budget")
    return RetrainDecision(True, f"{row} drifted {'batch' if row == 1 else 'batches in a row'}")


def count_drifted_in_a_row(batches: Sequence[dict[str, Any]]) -> int:
    """How many of the last batches drifted, one after the other; one that is too small counts neither way."""
    num = 0
    for batch in reversed([one for one in batches if one["state"] != TOO_SMALL]):
        if batch["state"] != DRIFTED:
            break
        num += 1
    return num
