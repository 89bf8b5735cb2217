"""Parts of paired predictions: some classes, some images, or two sets of images together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_modules.comparison.paired import PairedPredictions


def select_classes(predictions: PairedPredictions, classes: Sequence[str]) -> PairedPredictions | None:
    """Return the predictions as if there were only some of the classes; None if no image has one of them.

    Of single labels, only the images of these classes are left, and the probabilities of both models are divided
    by their sum: those given that the image has one of these classes. Of several labels, all images are left,
    since each label is a decision of its own.

    Args:
        predictions: over all classes.
        classes: names of those that are wanted.
    """
    columns = [predictions.classes.index(name) for name in classes]
    if predictions.labels.ndim == 2:
        predicted = predictions.candidate_predicted, predictions.champion_predicted
        assert predicted[0] is not None and predicted[1] is not None
        return PairedPredictions(
            predictions.labels[:, columns],
            predictions.candidate[:, columns],
            predictions.champion[:, columns],
            tuple(classes),
            predictions.groups,
            predicted[0][:, columns],
            predicted[1][:, columns],
        )
    rows = np.flatnonzero(np.isin(predictions.labels, columns))
    if not len(rows):
        return None
    position = np.zeros(len(predictions.classes), np.int64)
    position[columns] = np.arange(len(columns))
    return PairedPredictions(
        position[predictions.labels[rows]],
        _normalize(predictions.candidate[rows][:, columns]),
        _normalize(predictions.champion[rows][:, columns]),
        tuple(classes),
        predictions.groups[rows],
    )


def _normalize(probabilities: np.ndarray) -> np.ndarray:
    """Divide probabilities (N, K) by their sum; zeros, of an image that could not be read, stay."""
    sums = probabilities.sum(axis=1, keepdims=True)
    return np.asarray(probabilities / np.where(sums > 0, sums, 1))


def select_read_images(predictions: PairedPredictions) -> PairedPredictions | None:
    """Return the predictions for the images that both models could read; None if there are none."""
    is_read = np.asarray(predictions.candidate.any(axis=1) & predictions.champion.any(axis=1))
    return select_images(predictions, is_read)


def select_images(predictions: PairedPredictions, chosen: np.ndarray | Sequence[bool]) -> PairedPredictions | None:
    """Return the predictions for some of the images, chosen bool (N,); None if there are none."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return None
    predicted = predictions.candidate_predicted, predictions.champion_predicted
    return replace(
        predictions,
        labels=predictions.labels[rows],
        candidate=predictions.candidate[rows],
        champion=predictions.champion[rows],
        groups=predictions.groups[rows],
        candidate_predicted=None if predicted[0] is None else predicted[0][rows],
        champion_predicted=None if predicted[1] is None else predicted[1][rows],
    )


def concatenate(first: PairedPredictions, second: PairedPredictions) -> PairedPredictions:
    """Return the predictions for two sets of images of the same classes; a group of one is none of the other."""
    assert first.classes == second.classes
    parts = (first, second)
    groups = np.concatenate([first.clusters, second.clusters + first.clusters.max() + 1])
    predicted = [[part.candidate_predicted, part.champion_predicted] for part in parts]
    candidate_predicted, champion_predicted = (
        None if pair[0] is None or pair[1] is None else np.concatenate(pair)
        for pair in zip(*predicted, strict=True)
    )
    return PairedPredictions(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.candidate for part in parts]),
        np.concatenate([part.champion for part in parts]),
        first.classes,
        groups,
        candidate_predicted,
        champion_predicted,
    )
