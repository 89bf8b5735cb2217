"""The project folder that a command works in, and the paths inside it."""

from __future__ import annotations

import json
from pathlib import Path

from flows.project.exceptions import BrokenManifest
from imageset.exceptions import UserError

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
CLASSIFIER = Path("data/models/classifier")
PREDICTIONS = Path("data/predictions")
CACHE = Path(".cache")
PARAMS = Path("params.yaml")
# The last full check: {"time": ISO 8601, "findings": {subject: [problem, ...]}}
FULL_CHECK_FILE = CACHE / "full_check.json"


def find_project() -> Path:
    """Return the current folder, which must be a project.

    Raises:
        UserError: the folder has no dvc.yaml or no params.yaml.
    """
    for name in ("dvc.yaml", "params.yaml"):
        if not Path(name).is_file():
            raise UserError(f"{Path.cwd()} is not a Convoy project: it has no {name}; cd into one first")
    return Path.cwd()


def read_dataset_name(project: Path) -> str:
    """Return the name of the dataset in data/normalized, which is also the name of its model.

    Raises:
        UserError: there is no dataset, or its manifest is damaged.
    """
    try:
        name = read_dataset_field(project, "name")
    except BrokenManifest as error:
        raise UserError(f"{error}, or use --model") from None
    if name is None:
        raise UserError(
            f"{NORMALIZED}: no dataset here, so no model of that name; train one with `convoy run FOLDER`, "
            "or name a registered model with --model"
        )
    return name


def read_dataset_field(project: Path, field: str) -> str | None:
    """Return a field of dataset.json as text, or None if there is no dataset.

    Reads the file itself: imageset.store.reader takes longer to import.

    Raises:
        BrokenManifest: the file or the field cannot be read.
    """
    path = project / NORMALIZED / "dataset.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[field])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenManifest(f"{path}: broken ({error}); run `dvc repro -f normalize`") from None


def is_multi_label(project: Path) -> bool | None:
    """Return whether images of data/normalized may have several labels; None if there is no complete dataset."""
    from imageset.labels import MULTI_LABEL

    try:
        task = read_dataset_field(project, "task")
    except BrokenManifest:  # or written before datasets could be multi-label
        return None
    return None if task is None else task == MULTI_LABEL
