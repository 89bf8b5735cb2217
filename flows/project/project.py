"""A project: the folder that a command works in, and everything that is found through it."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flows.project.exceptions import BrokenManifest, ProjectBusy
from flows.project.paths import MANIFEST, NORMALIZED, PARAMS, PROJECT_LOCK, RAW
from imageset.distribution import get_version
from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock
from imageset.utils.integrity.file_digests import is_intact_manifest

PIPELINE = Path("dvc.yaml")
PROJECT_FILES = (PIPELINE.name, PARAMS.name)
OWN_STAGE = re.compile(r"\bimageset normalize\b")  # in the dvc.yaml of every project
OWN_SECTION = re.compile(r"^normalize:", re.MULTILINE)  # in every params.yaml
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Project:
    """A folder with dvc.yaml and params.yaml.

    `project / "data/raw"` is a path in it, and functions of the standard library accept it as its folder.

    Attributes:
        folder: the project's folder.
    """

    folder: Path

    @classmethod
    def find(cls) -> Project:
        """Return the project of the current folder: the nearest one at or above it.

        Raises:
            UserError: there is none.
        """
        project = cls.find_or_none()
        if project is not None:
            return project
        here = Path.cwd()
        missing = [name for name in PROJECT_FILES if not (here / name).is_file()]
        if len(missing) == 1 and not is_foreign(here):
            raise UserError(
                f"{here} is not a whole Convoy project: {missing[0]} is missing; restore it with "
                f"`git checkout {missing[0]}`, or let `convoy init` write a new one"
            )
        raise UserError(
            f"{here} is not in a Convoy project; `convoy init` makes one there, `-C DIR` names another"
        )

    @classmethod
    def find_or_none(cls) -> Project | None:
        """Return the nearest project at or above the current folder, or None."""
        here = Path.cwd()
        if all((here / name).is_file() for name in PROJECT_FILES):
            return cls(here)
        if any((here / name).is_file() for name in PROJECT_FILES) and not is_foreign(here):
            return None  # a project that has lost a file; `find` says so
        return next((cls(folder) for folder in here.parents if is_project(folder)), None)

    # ---- the name -----------------------------------------------------------------------------------

    def read_name(self) -> str:
        """Return the project's name: that of its dataset, its registered model and its MLflow experiment.

        It is `name` in params.yaml. A project that was made before there was such a key has the name that its
        data was ingested under, else that of its folder.

        Raises:
            UserError: params.yaml cannot be read, or the name is not one.
        """
        name = self._load_yaml(PARAMS).get("name")
        if name is None:
            return self.read_ingested_name() or make_name(self.folder.resolve().name)
        return check_name(name, f"{self / PARAMS}: name")

    def has_other_version(self) -> bool:
        """Return whether the stages depend on another version of Convoy than the one that is running.

        `imageset.params.check_convoy_version` raises an error for it; this does not load pydantic.
        """
        section = self._load_yaml(PARAMS).get("convoy")
        return isinstance(section, dict) and section.get("version") != get_version()

    def read_ingested_name(self) -> str | None:
        """Return the name that the data was ingested under, as data/raw.dvc records it, or None."""
        try:
            name = (self._load_yaml(Path(f"{RAW}.dvc")).get("meta") or {}).get("name")
        except (UserError, AttributeError):
            return None
        return name if isinstance(name, str) else None

    def _load_yaml(self, path: Path) -> dict[str, Any]:
        import yaml

        try:
            document = yaml.safe_load((self / path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{self / path}: not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(document, dict):
            raise UserError(f"{self / path}: holds no keys")
        return document

    def __truediv__(self, path: str | Path) -> Path:
        return self.folder / path

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    # ---- params.yaml --------------------------------------------------------------------------------

    def load_params(self, section: str) -> dict[str, Any]:
        """Return a section of params.yaml that flows read.

        Raises:
            UserError: a key is unknown or missing, or a value has another type, is out of its range, or does not
                fit the dataset.
        """
        from flows.project.params import load_section_params  # loads pydantic, which `convoy status` does not need

        params = load_section_params(self / PARAMS, section)
        if section == "promote":
            from lightning_modules.comparison.paired import check_metric

            check_metric(params["metric"], f"{self / PARAMS}: promote.metric", self.is_multi_label())
        return params

    # ---- the dataset --------------------------------------------------------------------------------

    def read_dataset_name(self) -> str:
        """Return the name of the dataset in data/normalized, else of the project; its model has the same name.

        Raises:
            UserError: the manifest of the dataset is damaged, or params.yaml is.
        """
        try:
            return self.read_dataset_field("name") or self.read_name()
        except BrokenManifest as error:
            raise UserError(f"{error}, or use --model") from None

    def require_dataset(self) -> None:
        """Raise UserError if there is no dataset in data/normalized, or its manifest is damaged."""
        if self.read_dataset_field("name") is None:
            raise UserError(f"{NORMALIZED}: no dataset here; `convoy run FOLDER` makes it from pictures")

    def read_dataset_field(self, field: str) -> str | None:
        """Return a field of dataset.json as text, or None if there is no dataset.

        Reads the file itself: imageset.store.reader takes longer to import.

        Raises:
            BrokenManifest: the file or the field cannot be read.
        """
        path = self / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if not is_intact_manifest(manifest):
                raise ValueError("it does not have its digest")
            return str(manifest[field])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokenManifest(f"{path}: broken ({error}); run `dvc repro -f normalize`") from None

    def is_multi_label(self) -> bool | None:
        """Return whether data/normalized is multi-label; None if there is no complete dataset."""
        from imageset.labels import MULTI_LABEL

        try:
            task = self.read_dataset_field("task")
        except BrokenManifest:  # or written before datasets could be multi-label
            return None
        return None if task is None else task == MULTI_LABEL

    # ---- the lock -----------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the project, since ingest, stages and promotion of two runs must not mix.

        Re-entrant: a command may hold it, and its flow. The kernel releases it when the process ends.

        Raises:
            ProjectBusy: another run holds the project.
        """
        path = self.folder.resolve() / PROJECT_LOCK
        if path in _held_locks.get():
            yield
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path, partial(_raise_busy, path)) as file:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            held = _held_locks.set(_held_locks.get() | {path})
            try:
                yield
            finally:
                _held_locks.reset(held)


_held_locks: ContextVar[frozenset[Path]] = ContextVar("held_locks", default=frozenset())  # files of `Project.lock`


def is_project(folder: Path) -> bool:
    """Return whether a folder has dvc.yaml and a params.yaml of Convoy's."""
    try:
        text = (folder / PARAMS).read_text(encoding="utf-8", errors="replace")
        return (folder / PIPELINE).is_file() and OWN_SECTION.search(text) is not None
    except OSError:
        return False


def is_foreign(folder: Path) -> bool:
    """Return whether a folder's dvc.yaml, or its params.yaml without one, is another program's."""
    for name, pattern in ((PIPELINE, OWN_STAGE), (PARAMS, OWN_SECTION)):
        if (folder / name).is_file():
            return pattern.search((folder / name).read_text(encoding="utf-8", errors="replace")) is None
    return False


def make_name(text: str) -> str:
    """Make a valid name of a project from any text, e.g. `my-flowers` from the name of the folder `My Flowers`."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9._-]+", "-", ascii_text.lower()).strip("-._")[:64] or "pictures"


def check_name(name: object, where: str) -> str:
    """Return a project's name if it is a valid one.

    Args:
        name: the value.
        where: how the message begins.

    Raises:
        UserError: it is not text, or has other characters than MLflow, Prefect and file systems all accept.
    """
    if isinstance(name, str) and NAME_PATTERN.fullmatch(name):
        return name
    raise UserError(
        f"{where}: must be at most 64 letters, digits, '.', '_' and '-', e.g. {make_name(str(name))}; not {name!r}"
    )


def _raise_busy(path: Path) -> None:
    holder = path.read_text(encoding="utf-8").strip() or "unknown"
    raise ProjectBusy(f"another run is at work in this project (process {holder}); wait until it ends")
