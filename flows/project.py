"""The folder that a command works in, and the files that mark it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import NoneType
from typing import Any

from imageset.errors import UserError
from imageset.params import load_params

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
CLASSIFIER = Path("data/models/classifier")
PREDICTIONS = Path("data/predictions")
CACHE = Path(".cache")
PARAMS = Path("params.yaml")
FULL_CHECK = CACHE / "full_check.json"  # the last one: {"time": ISO 8601, "findings": {what: [what is wrong]}}

# What the flows read from params.yaml; the stages know their own sections.
KNOWN: dict[str, dict[str, Any]] = {
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


def find_project() -> Path:
    """The current folder, if it is a project.

    Raises:
        UserError: it holds no dvc.yaml or no params.yaml.
    """
    for name in ("dvc.yaml", "params.yaml"):
        if not Path(name).is_file():
            raise UserError(f"{Path.cwd()} is not a Convoy project: it holds no {name}; cd into one first")
    return Path.cwd()


def stage_params(project: Path, stage: str) -> dict[str, Any]:
    """The section of params.yaml that one of the flows reads.

    Raises:
        UserError: a key is unknown, missing or of another type.
    """
    return load_params(project / PARAMS, stage, KNOWN[stage])


def dataset_name(project: Path) -> str:
    """The name of the dataset in data/normalized, which is the name of its model.

    Raises:
        UserError: there is no dataset, or it is broken.
    """
    try:
        name = said_of_dataset(project, "name")
    except BrokenManifest as error:
        raise UserError(f"{error}, or use --model") from None
    if name is None:
        raise UserError(
            f"{NORMALIZED}: no dataset here, so no model of that name; train one with `convoy run FOLDER`, "
            "or name a registered model with --model"
        )
    return name


class BrokenManifest(UserError):
    """data/normalized/dataset.json does not say what it should."""


def said_of_dataset(project: Path, key: str) -> str | None:
    """What dataset.json says under a key; None where there is no dataset. Light: without imageset.store.

    Raises:
        BrokenManifest: it says nothing of the kind.
    """
    path = project / NORMALIZED / "dataset.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[key])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenManifest(f"{path}: broken ({error}); run `dvc repro -f normalize`") from None


def is_multi_label(project: Path) -> bool | None:
    """Whether the pictures of data/normalized may bear several labels; None where there is no whole dataset."""
    from imageset.labels import MULTI_LABEL

    try:
        task = said_of_dataset(project, "task")
    except BrokenManifest:  # or made before there were several labels a picture
        return None
    return None if task is None else task == MULTI_LABEL


def promotion_params(project: Path) -> dict[str, Any]:
    """The rules of a promotion.

    Raises:
        UserError: as `stage_params`, or a metric or a confidence that there is not.
    """
    from lightning_modules.comparison import check_metric

    params = stage_params(project, "promote")
    check_metric(params["metric"], f"{project / PARAMS}: promote.metric", is_multi_label(project))
    if not 0.5 <= params["confidence"] < 1:
        raise UserError(f"{project / PARAMS}: promote.confidence is {params['confidence']:g}; give 0.5 to 0.999")
    if params["resamples"] < 100:
        raise UserError(f"{project / PARAMS}: promote.resamples is {params['resamples']}; give 100 or more")
    return params


def monitor_params(project: Path) -> dict[str, Any]:
    """How batches are compared with what a model was trained on.

    Raises:
        UserError: as `stage_params`, or a number out of its range.
    """
    from lightning_modules.drift import MOST_CHECKS

    params = stage_params(project, "monitor")
    where = f"{project / PARAMS}: monitor"
    least = {"pictures": params["min_pictures"], "min_pictures": 10, "seed": 0, "shown": 0}
    for name, smallest in least.items():
        if params[name] < smallest:
            raise UserError(f"{where}.{name} is {params[name]}; give {smallest} or more")
    if not 0 < params["alpha"] <= 0.1:
        raise UserError(f"{where}.alpha is {params['alpha']:g}; give a chance above 0, at most 0.1")
    needed = math.ceil(MOST_CHECKS / params["alpha"])
    if params["permutations"] + 1 < needed:
        raise UserError(
            f"{where}.permutations is {params['permutations']}: too few to show alpha in {MOST_CHECKS} "
            f"comparisons; give {needed} or more"
        )
    for name, smallest in {"batches_in_a_row": 1, "cooldown_hours": 0, "max_per_30_days": 0}.items():
        if params["retrain"][name] < smallest:
            raise UserError(f"{where}.retrain.{name} is {params['retrain'][name]:g}; give {smallest} or more")
    return params
