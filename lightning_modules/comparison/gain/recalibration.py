"""Log loss of two models at equal confidence: which one tells images apart better, however sure each claims to be.

Each model gets the temperature at which the mean of its highest probabilities is the accuracy that both have
together. Two models that differ only in a temperature then have the same losses: a model that is only better
calibrated gains nothing. The temperatures depend on the labels only by that one number, in which both models take
part alike. With the temperature of its own lowest loss, which depends on its errors in all groups, a lucky model
gains in all groups together: of equal models with 8 groups a tenth would be promoted.

Sources: C. Guo et al., "On Calibration of Modern Neural Networks", 2017 (temperature scaling); T. Gneiting, A. E.
Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation", 2007 (log loss).
"""

import numpy as np

_MIN_PROBABILITY = 1e-37  # float32 has no smaller ones
_MAX_LOG_SCALE = 7.0  # of the inverse temperature
_MAX_STEPS = 40


def compute_losses_at_equal_confidence(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return -log(probability of the true class) of each image for two models that are made equally sure, in nats.

    Args:
        labels: int (N,).
        first: probabilities of a model, float (N, K); zeros for an image that it could not read.
        second: likewise, of the other.

    Returns:
        The losses of both, float64 (N,) each. An image without probabilities has the largest loss.
    """
    num_images, num_classes = first.shape
    hits = [(each.argmax(axis=1) == labels) & (each.max(axis=1) > 0) for each in (first, second)]
    accuracy = float(np.mean(hits))
    confidence = min(max(accuracy, 1 / num_classes + 0.01), 1 - 0.5 / (num_images + 1))
    return _compute_losses(labels, first, confidence), _compute_losses(labels, second, confidence)


def _compute_losses(labels: np.ndarray, probabilities: np.ndarray, confidence: float) -> np.ndarray:
    """Return the losses (N,) at a mean confidence.

    A share 1 / (N + 2) of the uniform distribution is mixed in, so that no single image decides.
    """
    num_images, num_classes = probabilities.shape
    share = 1 / (num_images + 2)
    losses = np.full(num_images, np.log(num_classes / share))
    is_read = probabilities.max(axis=1) > 0
    if is_read.any():
        logits = np.log(np.maximum(probabilities[is_read].astype(np.float64), _MIN_PROBABILITY))
        logits -= logits.max(axis=1, keepdims=True)
        scaled = _scale(logits, _find_log_scale(logits, confidence))
        true = scaled[np.arange(len(scaled)), labels[is_read]]
        losses[is_read] = -np.log((1 - share) * true + share / num_classes)
    return losses


def _scale(logits: np.ndarray, log_scale: float) -> np.ndarray:
    """Return the softmax of logits (N, K), of which the largest are 0, divided by a temperature."""
    exponentials = np.exp(np.exp(log_scale) * logits)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _find_log_scale(logits: np.ndarray, confidence: float) -> float:
    """Find the logarithm of the inverse temperature at which the mean confidence has a value, by regula falsi."""

    def measure_excess(log_scale: float) -> float:
        return float((1 / np.exp(np.exp(log_scale) * logits).sum(axis=1)).mean()) - confidence

    low, high = -_MAX_LOG_SCALE, _MAX_LOG_SCALE
    below, above = measure_excess(low), measure_excess(high)
    if below >= 0 or above <= 0:  # all images are alike to the model, or it is sure of each
        return low if below >= 0 else high
    for _ in range(_MAX_STEPS):
        middle = (low * above - high * below) / (above - below)
        excess = measure_excess(middle)
        if abs(excess) < 1e-9:
            break
        if excess < 0:  # the Illinois variant: an end that stays counts half, so that both ends move
            low, below, above = middle, excess, above / 2
        else:
            high, above, below = middle, excess, below / 2
    return middle
