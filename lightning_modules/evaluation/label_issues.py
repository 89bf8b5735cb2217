"""Pictures whose label is probably wrong, for a person to look at: a table that `convoy ingest` reads back.

Source: C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021,
arXiv:1911.00068, as cleanlab implements it. It wants probabilities of pictures that the network was not trained
on: those of the validation and test splits are; training pictures would take a training for each fold.
"""

import csv
import io
import warnings
from collections.abc import Sequence

import numpy as np

from lightning_modules.calibration import thresholds

ISSUE_COLUMNS = ("path", "label", "suggested", "probability", "split", "image_id")


def rank_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Positions of pictures whose label is probably wrong, the most suspicious first.

    Args:
        labels: int (n,), or 0 and 1 (n, C) where a picture bears several.
        probabilities: float (n, C), of a network that was not trained on these pictures.
    """
    if not len(labels):
        return np.empty(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few pictures: there is nothing to do about it here
        if labels.ndim == 2:
            from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

            varied = labels.any(axis=0) & ~labels.all(axis=0)  # from the others there is nothing to learn
            given = [np.flatnonzero(row).tolist() for row in labels[:, varied]]
            wrong = find_multilabel_issues_per_class(
                given, probabilities[:, varied], filter_by="low_self_confidence", n_jobs=1
            )
            found = np.flatnonzero(np.any(wrong, axis=1))
            found = found[
                np.argsort(thresholds.compute_confidence(probabilities, labels > 0)[found], kind="stable")
            ]
        else:
            from cleanlab.filter import find_label_issues

            found = find_label_issues(
                labels,
                probabilities,
                filter_by="low_self_confidence",
                return_indices_ranked_by="self_confidence",
                n_jobs=1,
            )
    return np.asarray(found, np.int64)


def format_label_issues(rows: Sequence[tuple[str, str, str, float, str, str]]) -> bytes:
    """The table: where the picture lay, the label it bears, the one that the network suggests, the probability
    that the network gives to the label it bears (of several, to the least likely of them to be there or not, as
    it is said), its split, its id. `convoy ingest` takes `path` and `label`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ISSUE_COLUMNS)
    for path, label, suggested, probability, split, image_id in rows:
        writer.writerow([path, label, suggested, f"{probability:.6f}", split, image_id])
    return text.getvalue().encode()
