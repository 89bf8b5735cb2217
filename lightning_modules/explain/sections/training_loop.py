"""The section on the training: its own curve, the desired error, and where and why it stopped."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_modules.bundle import BundleInfo
from lightning_modules.explain.sections import image_grids
from lightning_modules.explain.sections.page import ExplainPage

HISTORY_FILE = "history.csv"  # written by the training, in the bundle's folder


def describe_training(
    page: ExplainPage, info: BundleInfo, history_path: Path, params_path: Path, val_labels: np.ndarray
) -> dict[str, Any] | None:
    """Return the curve of the training and how it ended; None without a history.

    Args:
        page: receives the plot.
        info: of the bundle; its metrics are those of the model that was kept.
        history_path: the CSV that the training wrote, one row an epoch.
        params_path: params.yaml, for the options that end a training. A change of them trains again, so they are
            those of this training.
        val_labels: of the validation images, int (n,); multi-label: 0 and 1 (n, K).
    """
    rows = read_history(history_path)
    if not rows:
        return None
    options = read_stop_options(params_path)
    is_probe = all("train_loss" not in row for row in rows)
    best = None if is_probe else find_best(rows, info.metrics)
    section = {
        "is_probe": is_probe, "metrics": dict(info.metrics), "num_epochs": len(rows), "best": best,
        "reason": describe_stop(rows, options), "desired": options["stop_at_error"],
        "rows": rows, "figure": None, "baseline": compute_most_frequent_share(val_labels),
    }  # fmt: skip
    if not is_probe:
        section["figure"] = plot_training(page, rows, best, options["stop_at_error"])
    return section


def compute_most_frequent_share(labels: np.ndarray) -> float:
    """Return the accuracy of always giving the most frequent answer: a class, or a set of labels."""
    counts = np.unique(labels, axis=0, return_counts=True)[1]
    return float(counts.max() / len(labels)) if len(labels) else 0.0


def read_history(path: Path) -> list[dict[str, float]]:
    """Return the epochs of a training, each with the numbers that are there; none if there is no such file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    except OSError:
        return []


def read_stop_options(path: Path) -> dict[str, Any]:
    """Return `stop_at_error`, `patience` and `max_epochs` of the section `train` of a params.yaml."""
    section = yaml.safe_load(path.read_text(encoding="utf-8")).get("train") or {}
    return {
        "stop_at_error": section.get("stop_at_error"),
        "patience": section.get("patience"),
        "max_epochs": (section.get("trainer") or {}).get("max_epochs"),
    }


def find_best(rows: list[dict[str, float]], metrics: dict[str, float]) -> int | None:
    """Return the epoch, from 1 on, whose network was kept; None: the linear probe before it was kept instead."""
    for row in rows:
        if "val_loss" in row and row["val_loss"] == metrics.get("val_loss"):
            return int(row["epoch"]) + 1
    return None


def describe_stop(rows: list[dict[str, float]], options: dict[str, Any]) -> str:
    """Return why a training ended, as the end of a sentence."""
    last, desired = rows[-1], options["stop_at_error"]
    if desired is not None and last.get("val_error", 1.0) <= desired:
        return f"the validation error, {last['val_error']:.2%}, was not above the desired {desired:.2%}"
    if options["max_epochs"] is not None and len(rows) >= options["max_epochs"]:
        return "that was the number of epochs in train.trainer.max_epochs"
    losses = [row.get("val_loss", float("inf")) for row in rows]
    since = len(rows) - 1 - losses.index(min(losses))
    if options["patience"] is not None and since >= options["patience"]:
        return f"the validation loss had not fallen for {since} epochs"
    return "train.budget or another limit of the training allowed no more"


def plot_training(page: ExplainPage, rows: list[dict[str, float]], best: int | None, desired: float | None) -> Any:
    """Return the plot of the errors over the epochs, with the desired error and the epoch that was kept."""
    epochs = [row["epoch"] + 1 for row in rows]
    curves = {
        name: (epochs, [row.get(key, float("nan")) if key == "val_error" else 1 - row.get(key, float("nan"))
                        for row in rows])
        for name, key in (("training pictures", "train_accuracy"), ("validation pictures", "val_error"))
    }  # fmt: skip
    png = image_grids.plot_curves(curves, "epoch", "error", desired=desired, marked=best, upper=None)
    return page.add_figure("training", png, "error: the share of wrong answers after each epoch", is_plot=True)
