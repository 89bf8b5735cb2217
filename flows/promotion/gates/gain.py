"""The gate `better`: the candidate is better than the champion, beyond chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.promotion.gates.gate import Gate

if TYPE_CHECKING:
    from lightning_modules.comparison.paired import PairedPredictions


def evaluate_gain(predictions: PairedPredictions, params: dict[str, Any]) -> Gate:
    """Check that the confidence interval of the paired gain lies above `min_gain`."""
    from lightning_modules.comparison import paired

    metric, confidence = params["metric"], params["confidence"]
    estimate = paired.compare_paired(predictions, metric, confidence, params["resamples"])
    passes = estimate.low > params["min_gain"]
    message = (
        f"{metric.replace('_', ' ')} {estimate.candidate:.4f} against {estimate.champion:.4f}: "
        f"gain {estimate.gain:+.4f}, {confidence:.0%} interval {estimate.low:+.4f} to {estimate.high:+.4f}, "
        f"{'above' if passes else 'not above'} {params['min_gain']:g}"
    )
    numbers = {
        metric: estimate.candidate,
        f"compared_{metric}": estimate.champion,
        "gain": estimate.gain,
        "gain_low": estimate.low,
        "gain_high": estimate.high,
        "num_test": len(predictions.labels),
    }
    return Gate("better", passes, message, numbers)
