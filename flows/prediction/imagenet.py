"""The model `imagenet`: the installed network with ImageNet's 1,000 classes, in place of a registered model.

It needs no project. Outside of one, the parameters come from predict.yaml beside this file, and the caches lie in
the user's cache folder ($XDG_CACHE_HOME/convoy, else ~/.cache/convoy).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.project.paths import CACHE
from flows.project.project import Project
from flows.promotion import model_registry
from flows.promotion.model_registry import Version

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle

IMAGENET = "imagenet"
IMAGENET_HINT = f"until then, `convoy predict PHOTOS --model {IMAGENET}` tags with ImageNet's 1,000 classes"
PARAMS_FILE = Path(__file__).with_name("predict.yaml")


def make_imagenet_version() -> Version:
    """Return the version of the model `imagenet`; no registry holds it, and no run trained it."""
    from lightning_modules.inference.imagenet import compute_version_number

    return Version(IMAGENET, compute_version_number(), run_id="")


def is_registered(version: Version) -> bool:
    """Return whether a version is in MLflow's registry, which the installed network never is."""
    return version != make_imagenet_version()


def load_version_bundle(version: Version) -> Bundle:
    """Load the bundle of a registered version, or of the model `imagenet`.

    Raises:
        UserError: the bundle, or the weights that are installed, are missing or damaged.
    """
    if is_registered(version):
        return model_registry.load_version_bundle(version)
    from lightning_modules.inference.imagenet import make_imagenet_bundle

    return make_imagenet_bundle()


def load_default_params() -> dict[str, Any]:
    """Return the section `predict` for a folder that is no project."""
    from flows.project.params import load_section_params

    return load_section_params(PARAMS_FILE, "predict")


def find_cache_folder(project: Project | None) -> Path:
    """Return the folder of the caches: the project's own, or one of the current folder in the user's cache folder.

    Each folder has its own, since `--new-only` is about the tables that were written there.
    """
    if project is not None:
        return project / CACHE
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:16]
    return user_cache / "convoy" / digest
