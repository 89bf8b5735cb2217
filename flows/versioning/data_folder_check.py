"""Check before an ingest that DVC can version what is written to data/, so that nothing is written in vain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flows.project.paths import RAW
from flows.project.project import PIPELINE, Project
from flows.versioning.dvc_repo import find_dvc_folder, read_config, read_yaml
from flows.versioning.git_repo import run_git
from imageset.exceptions import UserError
from lightning_modules.tracking.local_store.location import find_git_top


def check_data_folder(project: Project) -> None:
    """Raise UserError if DVC cannot version data/raw and the outputs of the stages, with the way out.

    DVC itself would say so after the ingest: outside git, behind a link, and where git tracks the files already.
    """
    outputs = [RAW, *_list_outputs(project)]
    if not find_dvc_folder(project).is_dir():
        raise UserError(
            f"{project} has no folder .dvc, so DVC cannot version the pictures; `convoy init` there makes it and "
            "keeps all files"
        )
    _check_links(project, outputs)
    if _is_without_git(project):
        return
    if find_git_top(project.folder.resolve()) is None:
        raise UserError(f"{project} is not in a git repository, which DVC needs; `git init` there makes one")
    _check_git(project, outputs)


def _list_outputs(project: Project) -> Iterator[Path]:
    """Yield the files and folders that the stages write and DVC keeps in its cache."""
    for stage in (read_yaml(project / PIPELINE).get("stages") or {}).values():
        for out in (stage or {}).get("outs") or []:
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            if (options or {}).get("cache", True):
                yield Path(str(path))


def _check_links(project: Project, outputs: list[Path]) -> None:
    """Raise UserError for a folder on the way to an output that is a link; DVC refuses files behind it."""
    folders = {folder for path in outputs for folder in path.parents} | {RAW}
    for folder in sorted(folders - {Path()}):
        if (project / folder).is_symlink():
            raise UserError(
                f"{project / folder} is a link to {(project / folder).readlink()}, and DVC versions nothing "
                "behind a link; put a folder in its place, or move the whole project to that disk"
            )


def _is_without_git(project: Project) -> bool:
    """Return whether DVC was initialized with --no-scm: it then needs no git."""
    try:
        return read_config(project).getboolean("core", "no_scm", fallback=False)
    except (UserError, ValueError):  # DVC itself says what is wrong
        return False


def _check_git(project: Project, outputs: list[Path]) -> None:
    """Raise UserError if git tracks an output, or ignores the file that DVC writes for git."""
    names = [path.as_posix() for path in outputs]
    tracked = run_git(project.folder, "ls-files", "-z", "--", *names).split("\0")[0]
    if tracked:
        output = next(name for name in names if tracked == name or tracked.startswith(f"{name}/"))
        raise UserError(
            f"git tracks {tracked}, and DVC versions only files that git does not; "
            f"`git rm -r -q --cached {output}` takes them out of git, and they stay on the disk"
        )
    pointer = f"{RAW.as_posix()}.dvc"
    if ignored := run_git(project.folder, "check-ignore", "--verbose", "--", pointer, allow_failure=True):
        rule = ignored.partition("\t")[0]
        raise UserError(
            f"git ignores {pointer}, where DVC records the version of the pictures, by {rule}; "
            "remove that line, or write a narrower one"
        )
