"""Temperature scaling: calibrate a network's probabilities with one number, fitted on the validation split.

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, "On Calibration of Modern Neural Networks", 2017,
arXiv:1706.04599 (temperature scaling, reliability diagrams, expected calibration error).
"""

import numpy as np

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # only a split without information would lead beyond these
NUM_BISECTIONS = 40


def to_probabilities(logits: np.ndarray, temperature: float, multi_label: bool) -> np.ndarray:
    """Return calibrated probabilities, float32 (n, C), of logits (n, C).

    They are the softmax of each row; for `multi_label` the sigmoid of each logit.
    """
    scaled = logits.astype(np.float64) / temperature
    if multi_label:
        return _sigmoid(scaled).astype(np.float32)
    return _softmax(scaled).astype(np.float32)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the smallest negative log-likelihood on the validation split.

    The negative log-likelihood is convex in 1 / temperature, so bisection on the sign of its slope finds the
    minimum. As in Platt scaling a label counts (n + 1) / (n + 2), not 1: a network without mistakes on a small
    split would otherwise become infinitely confident.

    Source of the smoothed labels: J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999.

    Args:
        logits: float (n, C).
        labels: int (n,), positions of the classes; multi-label: 0 and 1 (n, C).

    Returns:
        0.05 to 20; 1 if there are no images.
    """
    if not len(logits):
        return 1.0
    z = logits.astype(np.float64)
    z -= 0 if labels.ndim == 2 else z.max(axis=1, keepdims=True)
    targets = _smooth_targets(labels, z.shape)
    predict = _sigmoid if labels.ndim == 2 else _softmax
    low, high = np.log(1 / MAX_TEMPERATURE), np.log(1 / MIN_TEMPERATURE)  # of 1 / temperature
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        slope = ((predict(z * np.exp(middle)) - targets) * z).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


def _smooth_targets(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    n, num_classes = shape
    if labels.ndim == 2:
        return (labels.astype(np.float64) * n + 1) / (n + 2)
    targets = np.full(shape, 1 / ((n + 2) * max(1, num_classes - 1)))
    targets[np.arange(n), labels] = (n + 1) / (n + 2)
    return targets


def _softmax(scaled: np.ndarray) -> np.ndarray:
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _sigmoid(scaled: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(scaled / 2))  # never overflows
