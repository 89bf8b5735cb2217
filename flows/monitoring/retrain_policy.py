"""Decide when drift triggers a retrain, as a pure function of earlier batches and earlier retrains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

DRIFTED, CLEAN, TOO_SMALL = "drifted", "clean", "too small"  # states of a batch
BUDGET_DAYS = 30


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


def decide_retrain(
    policy: RetrainPolicy, batches: Sequence[dict[str, Any]], retrains: Sequence[datetime], now: datetime
) -> RetrainDecision:
    """Decide whether to retrain after the last of some batches.

    Args:
        policy: the policy of params.yaml.
        batches: entries of one model version, the oldest first.
        retrains: start times of the retrains that drift triggered, the oldest first.
        now: the time of the decision.
    """
    num_drifted = count_drifted_in_a_row(batches)
    if not num_drifted:
        return RetrainDecision(False, "no drift")
    if not policy.enabled:
        return RetrainDecision(False, "monitor.retrain.enabled is false")
    if num_drifted < policy.batches_in_a_row:
        return RetrainDecision(False, f"{num_drifted} of {policy.batches_in_a_row} drifted batches in a row")
    if retrains and now - retrains[-1] < timedelta(hours=policy.cooldown_hours):
        end = retrains[-1] + timedelta(hours=policy.cooldown_hours)
        return RetrainDecision(
            False, f"the last retrain cools down until {end.astimezone().isoformat(' ', 'minutes')}"
        )
    recent = [start for start in retrains if now - start < timedelta(days=BUDGET_DAYS)]
    if len(recent) >= policy.max_per_30_days:
        return RetrainDecision(False, f"{len(recent)} retrains in {BUDGET_DAYS} days are the whole budget")
    return RetrainDecision(True, f"{num_drifted} drifted {'batch' if num_drifted == 1 else 'batches in a row'}")


def count_drifted_in_a_row(batches: Sequence[dict[str, Any]]) -> int:
    """Return the number of drifted batches at the end; batches that are too small are ignored."""
    num = 0
    for batch in reversed([batch for batch in batches if batch["state"] != TOO_SMALL]):
        if batch["state"] != DRIFTED:
            break
        num += 1
    return num
