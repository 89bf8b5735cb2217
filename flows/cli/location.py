"""The folder that a command works in: `-C DIR`, the project around it, paths typed in a sub-folder."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from flows.project.project import PROJECT_FILES, Project
from flows.versioning import git_repo, shared_cache
from imageset.exceptions import UserError
from lightning_modules.tracking.local_store.location import find_git_top

PATH_ARGUMENTS = ("source", "sources", "out", "page", "image", "pictures", "report")  # of any command


def enter_directory(directory: str | None) -> None:
    """Change to the folder that `-C` names.

    Raises:
        UserError: there is no such folder.
    """
    if directory is None:
        return
    try:
        os.chdir(directory)
    except OSError as error:
        raise UserError(f"-C {directory}: {error.strerror}") from None


def enter_project(arguments: argparse.Namespace) -> Project:
    """Change to the project at or above the current folder; typed paths stay those of the current folder.

    Raises:
        UserError: there is none.
    """
    project, here = _find_project(arguments), Path.cwd()
    arguments.here = here
    shared_cache.mend_config(project.folder)
    if project.folder != here:
        for name in PATH_ARGUMENTS:
            if isinstance(value := getattr(arguments, name, None), list):
                setattr(arguments, name, [_move_path(path, here, project.folder) for path in value])
            elif isinstance(value, str | Path):
                setattr(arguments, name, type(value)(_move_path(os.fspath(value), here, project.folder)))
        os.chdir(project.folder)
    return project


def _find_project(arguments: argparse.Namespace) -> Project:
    try:
        return Project.find()
    except UserError:
        if any(Path(name).exists() for name in PROJECT_FILES):
            raise
        if below := _list_projects_below():
            raise UserError(
                f"{Path.cwd()} is not a Convoy project but holds {', '.join(below)}; "
                f"name one: convoy -C {shlex.quote(below[0])} {arguments.command} ..."
            ) from None
        source = getattr(arguments, "source", None)
        if not source:
            raise
        advice = f"`convoy init` makes one here, then `convoy {arguments.command} {source}`"
        raise UserError(f"{Path.cwd()} is not in a Convoy project; {advice}") from None


def _list_projects_below() -> list[str]:
    """Return the folders of the projects of this git repository that lie below the current folder."""
    here = Path.cwd()
    folders = _list_project_folders()
    return [str(folder.relative_to(here)) for folder in folders if folder.is_relative_to(here)]


def _list_project_folders() -> list[Path]:
    """Return the folders of the projects of the git repository around the current folder, in sorted order."""
    top = find_git_top(Path.cwd())
    return git_repo.list_project_folders(top) if top else []


def _move_path(path: str, here: Path, folder: Path) -> str:
    """Return a path that was typed in `here` as it is called in `folder`; a URL and an absolute path stay."""
    if "://" in path or Path(path).is_absolute():
        return path
    return os.path.relpath(here / path, folder)


def require_repository_projects() -> list[Project]:
    """Return the projects of the git repository around the current folder, in sorted order.

    Without a repository, that is the project of the current folder.

    Raises:
        UserError: there is none.
    """
    return [Project(folder) for folder in _list_project_folders()] or [Project.find()]
