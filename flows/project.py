"""The folder that a command works in, and the files that mark it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imageset.errors import UserError
from imageset.params import load_params

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
CLASSIFIER = Path("data/models/classifier")
PREDICTIONS = Path("data/predictions")
CACHE = Path(".cache")
PARAMS = Path("params.yaml")

# What the flows read from params.yaml; the stages know their own sections.
KNOWN: dict[str, dict[str, Any]] = {
    "promote": {"min_gain": (int, float)},
    "predict": {"batch_size": int, "top_k": int},
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
