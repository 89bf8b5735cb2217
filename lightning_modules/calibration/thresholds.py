"""Pictures that bear several labels, or none: from which probability on a label is said, and how sure that is.

A sigmoid's one half is the threshold of least mistakes, which for a rare label is never to say it. Each label has
its own, where its F1 on the validation split is highest. Source: Z. Lipton, C. Elkan, B. Naryanaswamy, "Optimal
Thresholding of Classifiers to Maximize F1 Measure", 2014, arXiv:1402.1892.
"""

from collections.abc import Sequence

import numpy as np

from imageset.labels import LABEL_SEPARATOR

DEFAULT_THRESHOLD = 0.5  # where nothing says otherwise
MIN_THRESHOLD = 1e-6  # a threshold of 0 would say a label of pictures that nothing is known of


def fit_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, ...]:
    """The threshold of each label with the highest F1; one half for a label that no picture bears.

    Args:
        probabilities: float (n, K), of pictures that the network was not trained on.
        labels: 0 and 1 (n, K).
    """
    return tuple(fit_threshold(*columns) for columns in zip(probabilities.T, labels.T, strict=True))


def fit_threshold(probabilities: np.ndarray, has_label: np.ndarray) -> float:
    """The same of one label, (n,) each. Any place between two neighbouring probabilities says the same of all
    pictures: one half where it lies there, else the middle; of equally good places the one nearest to one half."""
    num = int(has_label.sum())
    if not num:
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    high = probabilities[order].astype(np.float64)
    low = np.append(high[1:], 0.0)
    said = np.arange(1, len(high) + 1)
    f1 = 2 * np.cumsum(has_label[order] > 0) / (said + num)
    f1[low == high] = -1  # equal probabilities are not told apart
    best = f1 >= f1.max() - 1e-12
    low, high = low[best], high[best]
    places = np.where((low < DEFAULT_THRESHOLD) & (high >= DEFAULT_THRESHOLD), DEFAULT_THRESHOLD, (low + high) / 2)
    return max(float(places[np.abs(places - DEFAULT_THRESHOLD).argmin()]), MIN_THRESHOLD)


def apply_thresholds(probabilities: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which labels are said, bool (..., K), of probabilities (..., K)."""
    return np.asarray(probabilities >= np.asarray(thresholds, probabilities.dtype))


def compute_confidence(probabilities: np.ndarray, said: np.ndarray) -> np.ndarray:
    """How sure the least sure of a picture's decisions is: (..., K), bool (..., K) -> (...)."""
    return np.asarray(np.where(said, probabilities, 1 - probabilities).min(axis=-1))


def join_labels(classes: Sequence[str], said: np.ndarray) -> str:
    """A set of labels, bool (K,), as the one string that tables hold (imageset.labels)."""
    return LABEL_SEPARATOR.join(sorted(classes[i] for i in np.flatnonzero(said).tolist()))
