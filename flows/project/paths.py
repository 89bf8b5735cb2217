"""The folder that a command works in, and the files that mark it."""

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
FULL_CHECK_FILE = (
    CACHE / "full_check.json"
)  # the last one: {"time": ISO 8601, "findings": {what: [what is wrong]}}


def find_project() -> Path:
    """The current folder, if it is a project.

    Raises:
        UserError: it holds no dvc.yaml or no params.yaml.
    """
    for name in ("dvc.yaml", "params.yaml"):
        if not Path(name).is_file():
            raise UserError(f"{Path.cwd()} is not a Convoy project: it holds no {name}; cd into one first")
    return Path.cwd()


def read_dataset_name(project: Path) -> str:
    """The name of the dataset in data/normalized, which is the name of its model.

    Raises:
        UserError: there is no dataset, or it is broken.
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
    """What dataset.json says under a key; None where there is no dataset. Light: without imageset.store.reader.

    Raises:
        BrokenManifest: it says nothing of the kind.
    """
    path = project / NORMALIZED / "dataset.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[field])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenManifest(f"{path}: broken ({error}); run `dvc repro -f normalize`") from None


def is_multi_label(project: Path) -> bool | None:
    """Whether the pictures of data/normalized may bear several labels; None where there is no whole dataset."""
    from imageset.labels import MULTI_LABEL

    try:
        task = read_dataset_field(project, "task")
    except BrokenManifest:  # or made before there were several labels a picture
        return None
    return None if task is None else task == MULTI_LABEL
