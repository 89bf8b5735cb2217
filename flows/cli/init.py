"""`convoy init`: make a project in a folder, without overwriting anything."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.project.paths import INBOX, TEMPLATES
from flows.project.project import PROJECT_FILES, Project, check_name, is_foreign, is_project, make_name
from flows.versioning import dvc_repo, git_repo, shared_cache
from imageset.distribution import get_version
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_text
from lightning_modules.tracking.local_store.location import find_git_top

# Template in the package -> file in the project
PROJECT_TEMPLATES = {
    "params.yaml": "params.yaml",
    "params.schema.json": "params.schema.json",
    "pipeline.yaml": "dvc.yaml",  # DVC would take a dvc.yaml in this repository for a pipeline of it
    "prefect.yaml": "prefect.yaml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "dvcignore": ".dvcignore",
    "data.gitignore": "data/.gitignore",
}
# Where several projects of one repository keep what they share; `.cache` and the store stay out of git there, too.
SHARED_IGNORES = ("/mlflow.db*", "/mlartifacts/", "/.cache/")


@dataclass(frozen=True)
class InitResult:
    """A project, and one line for each thing that was done."""

    project: Project
    name: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        here = Path.cwd() == self.project.folder
        prefix = "convoy" if here else f"convoy -C {shlex.quote(os.path.relpath(self.project.folder))}"
        advice = [
            f"next: {prefix} run PICTURES, a folder with one sub-folder a class",
            f"or first: {prefix} check PICTURES, which only reads them and says what is wrong",
        ]
        return "\n".join([*self.lines, *advice])


def init_project(folder: Path, name: str | None = None, commit: bool = False) -> InitResult:
    """Make a project in a folder: its files, git and DVC where there is none. Nothing is overwritten.

    Args:
        folder: made if it does not exist.
        name: of the project; None: that of the folder.
        commit: whether the new files are committed to git.

    Raises:
        UserError: the folder cannot hold a project; nothing was written then.
    """
    folder = folder.expanduser().absolute()
    _check_folder(folder)
    _complete_git(folder)
    name = _choose_name(folder, name)
    _check_name_is_free(folder, name)
    edited = _list_edited_ignore_files(folder)
    written: list[Path] = []
    try:
        lines = list(_write_project(folder, name, written))
    except OSError as error:
        for path in reversed(written):
            path.unlink(missing_ok=True)
        raise UserError(f"{error.filename or folder}: {error.strerror}; choose another folder") from None
    if commit:
        added_to = [path for path in _list_ignore_files(folder) if path not in (*edited, *written)]
        lines.append(_commit(folder, name, [*written, *added_to]))
    return InitResult(Project(folder), name, tuple(lines))


def _check_folder(folder: Path) -> None:
    """Raise UserError if a project cannot be made in a folder."""
    inside = next((part for part in folder.resolve().parts if part in (".git", ".dvc")), None)
    if inside:
        raise UserError(f"{folder} is inside {inside}, which {inside[1:]} manages; choose another folder")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder")
    if is_foreign(folder):
        file = next(folder / name for name in PROJECT_FILES if (folder / name).exists())
        raise UserError(f"{file} is another program's; choose another folder: convoy init {folder}/NAME")
    around = next((parent for parent in folder.parents if is_project(parent)), None)
    if around is not None and folder.is_relative_to(around / "data"):
        raise UserError(f"{folder} is in the data of the project {around}; choose another folder")
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise UserError(f"{existing}: not writable; choose another folder: convoy init DIR")


def _choose_name(folder: Path, name: str | None) -> str:
    if (folder / "params.yaml").exists():
        existing = Project(folder).read_name()
        if name not in (None, existing):
            raise UserError(f"{folder} is the project {existing!r} already; change `name` in its params.yaml")
        return existing
    return make_name(folder.resolve().name) if name is None else check_name(name, "--name")


def _check_name_is_free(folder: Path, name: str) -> None:
    """Raise UserError if another project of the repository has the name: they share a registry."""
    top = find_git_top(folder)
    for project in git_repo.list_project_folders(top) if top else ():
        if project != folder and Project(project).read_name() == name:
            raise UserError(
                f"{project} is called {name!r}, too, and shares its model registry; give another name: --name NAME"
            )


def _write_project(folder: Path, name: str, written: list[Path]) -> Iterator[str]:
    """Write what is missing, and yield a line for each thing that is done."""
    if not folder.exists():
        folder.mkdir(parents=True)
        yield f"made {folder}"
    for template, target in PROJECT_TEMPLATES.items():
        path = folder / target
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        if path.exists():
            yield _keep_file(path, target, text)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, fill_template(text, name))
        written.append(path)
        yield f"wrote {target}"
    (folder / INBOX).mkdir(parents=True, exist_ok=True)
    top = find_git_top(folder)
    if top is None:
        git_repo.run_git(folder, "init", "--quiet")
        yield "made a git repository"
        top = folder
    if not (folder / ".dvc").is_dir() or _is_dvc_incomplete(folder):
        yield _init_dvc(folder, top)
    elif shared_cache.is_config_incomplete(folder):
        shared_cache.write_config(folder)
    shared = "shared by the Convoy projects of this repository"
    if top != folder and (added := _add_ignores(top / ".gitignore", SHARED_IGNORES, shared)):
        yield f"added {', '.join(added)} to {top / '.gitignore'}: {shared}"


def _complete_git(folder: Path) -> None:
    """Complete the git repository around a folder if `git init` was killed there: git takes it for none."""
    top = find_git_top(folder)
    if top is not None and _is_incomplete(top / ".git", ("HEAD", "objects", "refs")):
        git_repo.run_git(top, "init", "--quiet")


def _is_incomplete(folder: Path, names: Sequence[str]) -> bool:
    """Return whether a command that makes a folder with these files was killed."""
    return folder.is_dir() and not all((folder / name).exists() for name in names)


def _is_dvc_incomplete(folder: Path) -> bool:
    """Return whether `dvc init` was killed here, and nobody has used or configured DVC since."""
    config = folder / ".dvc" / "config"
    is_used = (folder / ".dvc" / "cache").exists() or (config.exists() and config.stat().st_size > 0)
    return _is_incomplete(folder / ".dvc", ("config", ".gitignore")) and not is_used


def _keep_file(path: Path, target: str, text: str) -> str:
    """Keep a file that is there; one that lists what is ignored gets the lines that it lacks."""
    if path.name in (".gitignore", ".dvcignore"):
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        if added := _add_ignores(path, lines, "Convoy"):
            return f"added {', '.join(added)} to {target}"
    return f"kept {target}, which was there"


def fill_template(text: str, name: str) -> str:
    """Return the text of a template for a project.

    Args:
        text: NAME stands for the project's name, VERSION for that of Convoy.
        name: of the project.
    """
    import yaml

    is_text = yaml.safe_load(name) == name  # 2024 is a number to YAML, and `on` is true
    values = {"NAME": name if is_text else json.dumps(name), "VERSION": get_version()}
    for placeholder, value in values.items():
        text = re.sub(rf": {placeholder}( *)(?=\s#|$)", partial(_keep_column, value), text, flags=re.MULTILINE)
    text = text.replace("project:NAME", f"project:{name}")
    return text.replace("NAME-", f"{name}-").replace("# NAME\n", f"# {name}\n")


def _keep_column(value: str, match: re.Match[str]) -> str:
    """Return the value with as many spaces behind it as keep the comment of the line where it is."""
    return f": {value}".ljust(len(match[0]))


def _init_dvc(folder: Path, top: Path) -> str:
    """Initialize DVC; below the top of a repository its cache is the one that all projects share."""
    options = ["--force"] if (folder / ".dvc").is_dir() else []  # what a killed `dvc init` left
    dvc_repo.run_dvc(folder, "init", *options, *(["--subdir"] if top != folder else []))
    cache = shared_cache.write_config(folder)
    if cache is None:
        return "initialized DVC"
    return f"initialized DVC in this folder of the repository {top}; the cache for all its projects is {cache}"


def _add_ignores(path: Path, lines: Sequence[str], comment: str) -> list[str]:
    """Add lines to a .gitignore or .dvcignore that it does not have yet; return those that were added."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    present = {line.strip().strip("/") for line in text.splitlines()}
    added = [line for line in lines if line.strip("/") not in present]
    if added:
        separator = "" if not text or text.endswith("\n") else "\n"
        write_text(path, text + separator + "\n".join([f"# {comment}", *added]) + "\n")
    return added


def _list_ignore_files(folder: Path) -> list[Path]:
    """Return the files beside and above a project that list what git and DVC ignore."""
    top = find_git_top(folder)
    paths = {folder / target for target in PROJECT_TEMPLATES.values() if target.endswith("ignore")}
    return sorted(path for path in paths | ({top / ".gitignore"} if top else set()) if path.exists())


def _list_edited_ignore_files(folder: Path) -> list[Path]:
    """Return those that hold something of the user's that is not committed, so that no commit of ours takes it."""
    files = _list_ignore_files(folder)
    if find_git_top(folder) is None:
        return files
    return [path for path in files if git_repo.run_git(path.parent, "status", "--porcelain", "--", path.name)]


def _commit(folder: Path, name: str, files: list[Path]) -> str:
    """Commit the files of a new project, and nothing else that is staged."""
    paths = [os.path.relpath(path, folder) for path in files]
    paths += [path for path in (".dvc/config", ".dvc/.gitignore") if (folder / path).exists()]
    commit = git_repo.commit_paths(folder, paths, f"Add the Convoy project {name}")
    return f"committed as {commit[:12]}" if commit else "nothing to commit"
