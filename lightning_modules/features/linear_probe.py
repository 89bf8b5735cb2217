"""Linear probe: logistic regression on the features of a frozen network, as the new head of that network.

The features are standardized, with variances that are shrunk towards their mean. The strength of the
regularization is the one with the lowest calibrated loss on the validation split: strong regularization makes a
head less sure than it may be, which its temperature corrects. The head that is registered learns from the
training and the validation split with that strength, and its probabilities are calibrated with out-of-fold
predictions: each image is predicted by a head that has not seen it.

Sources: G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes", 2016,
arXiv:1610.01644; A. Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", 2022, arXiv:2202.10054 (a probe first, then fine-tuning from its head).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imageset.utils.progress import Progress, SilentProgress
from lightning_modules.calibration.temperature import fit_temperature

STRENGTHS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)  # C of scikit-learn: small values regularize more
DEFAULT_STRENGTH = 1e-2  # without validation images
NUM_FOLDS = 5
MAX_ITERATIONS = 100
ABSENT_LOGIT = -20.0  # of a class without images


@dataclass(frozen=True)
class LinearHead:
    """A linear layer from features (n, d) to logits (n, K).

    Attributes:
        weight: float32 (K, d).
        bias: float32 (K,).
    """

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n, K), of features (n, d)."""
        return np.asarray(features @ self.weight.T + self.bias, np.float32)


@dataclass(frozen=True)
class ProbeScore:
    """The quality of a head on some images: cross entropy and accuracy, as in a training's metrics."""

    loss: float
    accuracy: float


def fit_head(features: np.ndarray, labels: np.ndarray, num_classes: int, strength: float) -> LinearHead:
    """Fit a head by logistic regression, one regression for each label if the dataset is multi-label.

    Args:
        features: float32 (n, d).
        labels: int (n,), positions of the classes; multi-label: 0 and 1 (n, K).
        num_classes: K.
        strength: C of scikit-learn's LogisticRegression.
    """
    mean, variance = features.mean(axis=0, dtype=np.float64), features.var(axis=0, dtype=np.float64)
    # Half of each variance is the mean over all features: few images measure that of one feature badly, and a
    # feature that hardly varies says little.
    scale = 1 / np.sqrt(np.maximum((variance + variance.mean()) / 2, 1e-12))
    standardized = (features - mean) * scale
    if labels.ndim == 2:
        rows = [_fit_binary(standardized, column, strength) for column in labels.T]
        weight, bias = np.stack([row for row, _ in rows]), np.array([intercept for _, intercept in rows])
    else:
        weight, bias = _fit_multinomial(standardized, labels, num_classes, strength)
    weight = weight * scale
    return LinearHead(weight.astype(np.float32), (bias - weight @ mean).astype(np.float32))


def choose_strength(
    features: np.ndarray, labels: np.ndarray, val_features: np.ndarray, val_labels: np.ndarray, num_classes: int
) -> tuple[float, LinearHead, ProbeScore]:
    """Return the strength with the lowest calibrated validation loss, the head that it gives, and its score.

    The score is that of the logits as they are, like the metrics of an epoch.
    """
    if not len(val_labels):
        head = fit_head(features, labels, num_classes, DEFAULT_STRENGTH)
        return DEFAULT_STRENGTH, head, ProbeScore(float("nan"), float("nan"))
    best: tuple[float, LinearHead, ProbeScore] | None = None
    lowest_loss = float("inf")
    for strength in STRENGTHS:
        head = fit_head(features, labels, num_classes, strength)
        logits = head.logits(val_features)
        loss = float(compute_calibrated_losses(logits, val_labels).mean())
        if loss >= lowest_loss:
            break  # the loss has one minimum
        lowest_loss, best = loss, (strength, head, compute_score(logits, val_labels))
    assert best is not None
    return best


def compute_score(logits: np.ndarray, labels: np.ndarray) -> ProbeScore:
    """Return the mean cross entropy and the accuracy; multi-label: an image is correct if all its labels are."""
    return ProbeScore(float(compute_losses(logits, labels).mean()), float(is_correct(logits, labels).mean()))


def compute_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross entropy of each image, float64 (n,); multi-label: the mean over its labels."""
    z = logits.astype(np.float64)
    if labels.ndim == 2:
        return np.asarray((np.logaddexp(0, z) - labels * z).mean(axis=1))
    z -= z.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels])


def compute_calibrated_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross entropy of each image, float64 (n,), after the temperature that suits these images best."""
    return compute_losses(logits / fit_temperature(logits, labels), labels)


def is_correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each image whether its prediction is correct: bool (n,)."""
    if labels.ndim == 2:
        return np.asarray(((logits >= 0) == (labels > 0)).all(axis=1))
    return np.asarray(logits.argmax(axis=1) == labels)


def predict_out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    num_classes: int,
    strength: float,
    seed: int,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return logits, float32 (n, K), each of a head that was fitted without the image and without its group.

    Args:
        features: float32 (n, d).
        labels: int (n,), or 0 and 1 (n, K).
        groups: (n,), images of a group are in the same fold.
        num_classes: K.
        strength: see `fit_head`.
        seed: shuffles the images before they are divided into folds.
        progress: counts the heads that are fitted.
    """
    progress = progress or SilentProgress()
    logits = np.zeros((len(features), num_classes), np.float32)
    for fold in _iter_folds(labels, np.asarray(groups), seed):
        rest = np.ones(len(features), bool)
        rest[fold] = False
        if rest.any():
            head = fit_head(features[rest], labels[rest], num_classes, strength)
            logits[fold] = head.logits(features[fold])
        progress.advance()
    return logits


def _iter_folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> list[np.ndarray]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    num_folds = min(NUM_FOLDS, len(np.unique(groups)))
    if num_folds < 2:
        return [np.arange(len(labels))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about classes with fewer images than folds
        if labels.ndim == 2:
            folds = GroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, groups=groups)
        else:
            splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
            folds = splitter.split(np.zeros(len(labels)), labels, groups)
        return [fold for _, fold in folds]


def _fit_multinomial(
    standardized: np.ndarray, labels: np.ndarray, num_classes: int, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (weight (K, d), bias (K,)); classes without images get a very small logit."""
    weight = np.zeros((num_classes, standardized.shape[1]))
    bias = np.full(num_classes, ABSENT_LOGIT)
    present = np.unique(labels)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    model = _fit_logistic_regression(standardized, labels, strength)
    if len(present) == 2:  # scikit-learn has one row, for the second class
        weight[present], bias[present] = np.stack([-model.coef_[0], model.coef_[0]]) / 2, 0.0
        bias[present] = np.array([-0.5, 0.5]) * model.intercept_[0]
    else:
        weight[present], bias[present] = model.coef_, model.intercept_
    return weight, bias


def _fit_binary(standardized: np.ndarray, column: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Return (weight (d,), bias) of one label; a label that no image has, or all have, gets its smoothed odds."""
    num = int(column.sum())
    if num in (0, len(column)):
        return np.zeros(standardized.shape[1]), float(np.log((num + 1) / (len(column) - num + 1)))
    model = _fit_logistic_regression(standardized, column, strength)
    return model.coef_[0], float(model.intercept_[0])


def _fit_logistic_regression(standardized: np.ndarray, labels: np.ndarray, strength: float):  # type: ignore[no-untyped-def]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # The products of a step are small, so several threads mostly wait: on a busy machine ten times as long.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the loss changes little after so many iterations
        return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(standardized, labels)
