"""Label issues: images whose label is probably wrong, as a table for review.

A person corrects the column `label` (`suggested` is the network's guess), and `convoy ingest` then corrects the
dataset; rows that keep their label change nothing.

Source: C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021,
arXiv:1911.00068, as cleanlab implements it. The method needs probabilities of images that the network was not
trained on. A training that starts from pretrained weights keeps them for training and validation images, see
`lightning_modules.features.out_of_fold`; without, only the validation and the test split are covered.
"""

import csv
import io
import warnings
from collections.abc import Sequence

import numpy as np

from imageset.utils.text import escape_cell
from lightning_modules.calibration import thresholds

ISSUE_COLUMNS = ("path", "label", "suggested", "probability", "split", "image_id")


def rank_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the positions of images whose label is probably wrong, the most suspicious first.

    Args:
        labels: int (n,); multi-label: 0 and 1 (n, C).
        probabilities: float (n, C), of a network that was not trained on these images.
    """
    if not len(labels):
        return np.empty(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes with few images: nothing can be done about them here
        if labels.ndim == 2:
            from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

            varied = labels.any(axis=0) & ~labels.all(axis=0)  # the other labels are constant
            label_lists = [np.flatnonzero(row).tolist() for row in labels[:, varied]]
            is_issue = find_multilabel_issues_per_class(
                label_lists, probabilities[:, varied], filter_by="low_self_confidence", n_jobs=1
            )
            positions = np.flatnonzero(np.any(is_issue, axis=1))
            confidence = thresholds.compute_confidence(probabilities, labels > 0)[positions]
            positions = positions[np.argsort(confidence, kind="stable")]
        else:
            from cleanlab.filter import find_label_issues

            positions = find_label_issues(
                labels,
                probabilities,
                filter_by="low_self_confidence",
                return_indices_ranked_by="self_confidence",
                n_jobs=1,
            )
    return np.asarray(positions, np.int64)


def format_label_issues(rows: Sequence[tuple[str, str, str, float, str, str]]) -> bytes:
    """Format the table of label issues as CSV; `convoy ingest` reads its columns `image_id` and `label`.

    Args:
        rows: of each image: its path, its label, the label that the network suggests, the probability of its label
            (multi-label: that of the least probable of its decisions), its split and its id.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ISSUE_COLUMNS)
    for path, label, suggested, probability, split, image_id in rows:
        texts = map(escape_cell, (path, label, suggested))
        writer.writerow([*texts, f"{probability:.6f}", split, image_id])
    return text.getvalue().encode()
