"""The gate `better`: the candidate is better than the champion, beyond chance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flows.promotion.gates.gate import Gate
from imageset.utils.text import format_count

if TYPE_CHECKING:
    from flows.promotion.holdout_reuse import HoldoutLook
    from lightning_modules.comparison.gain.gain_test import GainTest, MetricGain
    from lightning_modules.comparison.paired import PairedPredictions

BETTER = "better"  # the name of the gate
LOG_LOSS = "recalibrated_log_loss"  # the name of the number


def evaluate_gain(predictions: PairedPredictions, params: dict[str, Any], look: HoldoutLook) -> Gate:
    """Check that the confidence interval of the paired gain lies above `min_gain`.

    Args:
        predictions: of both models on the test pictures.
        params: the section `promote` of params.yaml.
        look: the error probability that the test pictures still have for this decision.
    """
    from lightning_modules.comparison.gain.gain_test import run_gain_test

    metric, min_gain = params["metric"], params["min_gain"]
    max_drop, drop_tail = params["max_accuracy_drop"], 1 - params["confidence"]
    test = run_gain_test(predictions, metric, min_gain, look.tail, max_drop, drop_tail)
    gain, log_loss_gain = test.metric_gain, test.log_loss_gain
    parts = [_format_gain(metric.replace("_", " "), gain, test.can_decide)]
    numbers = {"num_test": len(predictions.labels), "num_groups": test.num_groups, "num_looks": look.num_earlier,
               "num_spending": look.num_spending, "error_probability": look.tail,
               "confidence": params["confidence"], "max_accuracy_drop": max_drop,
               **_list_numbers(metric, "gain", gain)}  # fmt: skip
    if log_loss_gain is not None:
        parts.append(_format_gain("log loss at equal confidence", log_loss_gain, test.can_decide))
        numbers |= _list_numbers(LOG_LOSS, "log_loss_gain", log_loss_gain)
    conclusion = _describe_conclusion(test, params)
    message = f"{'; '.join(parts)}{', ' if test.can_decide else '; '}{conclusion}"
    return Gate(BETTER, test.passes, message, numbers | measure_unseen(predictions, metric, look))


def _format_gain(name: str, gain: MetricGain, has_interval: bool) -> str:
    text = f"{name} {gain.candidate:.4f} against {gain.champion:.4f}: gain {gain.gain:+.4f}"
    if not has_interval:
        return text
    return f"{text}, {100 * (1 - 2 * gain.tail):.6g}% interval {gain.low:+.4f} to {gain.high:+.4f}"


def _list_numbers(metric: str, name: str, gain: MetricGain) -> dict[str, float | None]:
    """Return the numbers of a gain; an end of an interval that too few groups leave open is null."""
    ends = {f"{name}_low": gain.low, f"{name}_high": gain.high}
    return {
        **{metric: gain.candidate, f"compared_{metric}": gain.champion, name: gain.gain},
        **{key: end if math.isfinite(end) else None for key, end in ends.items()},
        f"{name}_deviation": gain.deviation,
    }


def _describe_conclusion(test: GainTest, params: dict[str, Any]) -> str:
    min_gain = params["min_gain"]
    if not test.can_decide:
        return (
            "it cannot be decided which model is better: the test pictures form "
            f"{format_count(test.num_groups, 'group')}, and {test.num_needed_groups} or more are needed, since in "
            "all of fewer one model may be better by luck alone; add labelled pictures of other groups"
        )
    if test.passes:
        return f"above {min_gain:g}"
    proven = test.log_loss_gain is not None and test.log_loss_gain.is_above(0.0)
    if proven and test.metric_gain.gain <= 0:
        return f"but it is right no more often: not above {min_gain:g}"
    if proven:
        return (
            f"but it may be right less often by more than {params['max_accuracy_drop']:g}: not above {min_gain:g}"
        )
    return f"not above {min_gain:g}"


def measure_unseen(predictions: PairedPredictions, metric: str, look: HoldoutLook) -> dict[str, float]:
    """Return the metric of both models on test pictures that no decision has used, if others were used."""
    num_unseen = int(look.is_unseen.sum())
    if not look.num_earlier or not num_unseen:
        return {}
    rows = look.is_unseen
    picked = replace(
        predictions,
        labels=predictions.labels[rows],
        candidate=predictions.candidate[rows],
        champion=predictions.champion[rows],
        groups=predictions.groups[rows],
        candidate_predicted=_select(predictions.candidate_predicted, rows),
        champion_predicted=_select(predictions.champion_predicted, rows),
    )
    import numpy as np

    candidate, champion, _ = picked.make_metrics(metric)
    ones = np.ones((1, num_unseen))
    values = {f"unseen_{metric}": candidate(ones), f"compared_unseen_{metric}": champion(ones)}
    return {"num_unseen": num_unseen, **{name: float(value[0]) for name, value in values.items()}}


def _select(predicted: Any, rows: Any) -> Any:
    return None if predicted is None else predicted[rows]


def describe_looks(numbers: dict[str, Any], metric: str) -> str:
    """Return how many decisions have used the test pictures, for the sentence about the gain; "" if none has."""
    if not numbers["num_looks"]:
        return ""
    text = f", which {format_count(numbers['num_looks'], 'decision has used', 'decisions have used')}"
    if "num_unseen" not in numbers:
        return text
    values = f"{numbers[f'unseen_{metric}']:.4f} against {numbers[f'compared_unseen_{metric}']:.4f}"
    return f"{text}; on the {numbers['num_unseen']:,} that none has used: {values}"
