"""Sections of params.yaml that flows read."""

from __future__ import annotations

import math
from pathlib import Path
from types import NoneType
from typing import Any

from flows.project.paths import PARAMS, is_multi_label
from imageset.exceptions import UserError
from imageset.params import load_params

# What the flows read from params.yaml; the stages know their own sections.
KNOWN_PARAMS: dict[str, dict[str, Any]] = {
    "promote": {
        "metric": str,
        "min_gain": float,
        "confidence": float,
        "resamples": int,
        "max_class_drop": (float, NoneType),
        "max_ece_rise": (float, NoneType),
        "max_slowdown": (float, NoneType),
    },
    "sweep": {
        "space": dict,
        "metric": str,
        "trials": int,
        "timeout_min": (float, NoneType),
        "processes": (int, str),
        "pruner": str,
        "startup_trials": int,
        "warmup_epochs": int,
        "seed": int,
    },
    "predict": {
        "batch_size": int,
        "top_k": int,
        "engine": str,
        "precision": str,
        "min_agreement": (int, float),
        "max_accuracy_loss": (int, float),
    },
    "monitor": {
        "after_predict": bool,
        "pictures": int,
        "min_pictures": int,
        "alpha": float,
        "permutations": int,
        "seed": int,
        "shown": int,
        "retrain": {"enabled": bool, "batches_in_a_row": int, "cooldown_hours": float, "max_per_30_days": int},
    },
    "hooks": {"on_failure": (str, NoneType), "on_promotion": (str, NoneType)},
    "after_run": {"push": (str, bool), "commit": bool, "branch": str},
}


def load_stage_params(project: Path, stage: str) -> dict[str, Any]:
    """The section of params.yaml that one of the flows reads.

    Raises:
        UserError: a key is unknown, missing or of another type.
    """
    return load_params(project / PARAMS, stage, KNOWN_PARAMS[stage])


def load_promotion_params(project: Path) -> dict[str, Any]:
    """The rules of a promotion.

    Raises:
        UserError: as `load_stage_params`, or a metric or a confidence that there is not.
    """
    from lightning_modules.comparison.paired import check_metric

    params = load_stage_params(project, "promote")
    check_metric(params["metric"], f"{project / PARAMS}: promote.metric", is_multi_label(project))
    if not 0.5 <= params["confidence"] < 1:
        raise UserError(f"{project / PARAMS}: promote.confidence is {params['confidence']:g}; give 0.5 to 0.999")
    if params["resamples"] < 100:
        raise UserError(f"{project / PARAMS}: promote.resamples is {params['resamples']}; give 100 or more")
    return params


def load_monitor_params(project: Path) -> dict[str, Any]:
    """How batches are compared with what a model was trained on.

    Raises:
        UserError: as `load_stage_params`, or a number out of its range.
    """
    from lightning_modules.drift.detector import MAX_CHECKS

    params = load_stage_params(project, "monitor")
    where = f"{project / PARAMS}: monitor"
    least = {"pictures": params["min_pictures"], "min_pictures": 10, "seed": 0, "shown": 0}
    for name, smallest in least.items():
        if params[name] < smallest:
            raise UserError(f"{where}.{name} is {params[name]}; give {smallest} or more")
    if not 0 < params["alpha"] <= 0.1:
        raise UserError(f"{where}.alpha is {params['alpha']:g}; give a chance above 0, at most 0.1")
    needed = math.ceil(MAX_CHECKS / params["alpha"])
    if params["permutations"] + 1 < needed:
        raise UserError(
            f"{where}.permutations is {params['permutations']}: too few to show alpha in {MAX_CHECKS} "
            f"comparisons; give {needed} or more"
        )
    for name, smallest in {"batches_in_a_row": 1, "cooldown_hours": 0, "max_per_30_days": 0}.items():
        if params["retrain"][name] < smallest:
            raise UserError(f"{where}.retrain.{name} is {params['retrain'][name]:g}; give {smallest} or more")
    return params
