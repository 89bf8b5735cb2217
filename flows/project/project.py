"""A project: the folder that a command works in, and everything that is found through it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flows.project.exceptions import BrokenManifest, ProjectBusy
from flows.project.paths import MANIFEST, NORMALIZED, PARAMS, PROJECT_LOCK
from imageset.exceptions import UserError
from imageset.utils.file_lock import file_lock

PROJECT_FILES = ("dvc.yaml", "params.yaml")


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
        """Return the project in the current folder.

        Raises:
            UserError: the folder has no dvc.yaml or no params.yaml.
        """
        missing = [name for name in PROJECT_FILES if not Path(name).is_file()]
        if missing:
            raise UserError(f"{Path.cwd()} is not a Convoy project: it has no {missing[0]}; cd into one first")
        return cls(Path.cwd())

    @staticmethod
    def is_here() -> bool:
        """Return whether the current folder is a project."""
        return all(Path(name).is_file() for name in PROJECT_FILES)

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
        """Return the name of the dataset in data/normalized, which is also the name of its model.

        Raises:
            UserError: there is no dataset, or its manifest is damaged.
        """
        try:
            name = self.read_dataset_field("name")
        except BrokenManifest as error:
            raise UserError(f"{error}, or use --model") from None
        if name is None:
            raise UserError(
                f"{NORMALIZED}: no dataset here, so no model of that name; train one with `convoy run FOLDER`, "
                "or name a registered model with --model"
            )
        return name

    def read_dataset_field(self, field: str) -> str | None:
        """Return a field of dataset.json as text, or None if there is no dataset.

        Reads the file itself: imageset.store.reader takes longer to import.

        Raises:
            BrokenManifest: the file or the field cannot be read.
        """
        path = self / MANIFEST
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))[field])
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

        The kernel releases the lock when the process ends.

        Raises:
            ProjectBusy: another run holds the project.
        """
        path = self / PROJECT_LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(path, partial(_raise_busy, path)) as file:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def _raise_busy(path: Path) -> None:
    holder = path.read_text(encoding="utf-8").strip() or "unknown"
    raise ProjectBusy(f"another run is at work in this project (process {holder}); wait until it ends")
