"""All calls of git."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.project.project import is_project
from imageset.exceptions import UserError

NULL_COMMIT = "0" * 40  # git's name for the tip of a branch that does not exist


def list_project_folders(top: Path) -> list[Path]:
    """List the folders of Convoy's projects in a repository, the top folder included, in sorted order.

    Files that git ignores, and repositories inside this one, are not searched.
    """
    patterns = ("dvc.yaml", "**/dvc.yaml")
    names = run_git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--",
                    *(f":(glob){pattern}" for pattern in patterns))  # fmt: skip
    return sorted({folder for name in names.split("\0") if name and is_project(folder := (top / name).parent)})


def commit_paths(folder: Path, paths: Sequence[str], message: str) -> str | None:
    """Commit files to the branch that is checked out, and nothing else; return the commit, None without a change.

    Raises:
        UserError: git refuses.
    """
    run_git(folder, "add", "--", *paths)
    if not run_git(folder, "status", "--porcelain", "--", *paths):
        return None
    run_git(folder, "commit", "--quiet", "-m", message, "--", *paths, variables=_build_author(folder))
    return run_git(folder, "rev-parse", "HEAD")


def check_branch(project: Path, branch: str) -> None:
    """Raise UserError if a commit to this branch would affect the checked-out files."""
    run_git(project, "check-ref-format", "--branch", branch)
    worktrees = run_git(project, "worktree", "list", "--porcelain").splitlines()
    if f"branch refs/heads/{branch}" in worktrees:
        raise UserError(
            f"params.yaml: after_run.branch: {branch!r} is checked out, and a commit would change the status "
            "of your files; name another branch, e.g. convoy"
        )


def commit_files(project: Path, branch: str, names: Sequence[str], message: str) -> str | None:
    """Commit files to a branch without touching the working tree, the index or HEAD.

    The commit holds the tree of HEAD with these files, and its parents are the tip of the branch and HEAD.

    Args:
        project: the project's folder.
        branch: created if it does not exist.
        names: files relative to the project; missing ones are left out.
        message: of the commit.

    Returns:
        The new commit; None if the branch already holds these files.

    Raises:
        UserError: no git repository, an invalid branch name, the branch is checked out, or git refuses.
    """
    check_branch(project, branch)
    reference = f"refs/heads/{branch}"
    head, tip = _resolve_commit(project, "HEAD"), _resolve_commit(project, reference)
    prefix = run_git(project, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(prefix="convoy-") as folder:
        own = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        run_git(project, "read-tree", *([head] if head else ["--empty"]), variables=own)
        for name in names:
            if (project / name).is_file():
                blob = run_git(project, "hash-object", "-w", "--", name)
                run_git(
                    project, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}", variables=own
                )
        tree = run_git(project, "write-tree", variables=own)
    if tip and tree == run_git(project, "rev-parse", f"{tip}^{{tree}}"):
        return None
    parents = [*([tip] if tip else []), *([head] if head and not _is_ancestor(project, tip, head) else [])]
    parent_options = [part for parent in parents for part in ("-p", parent)]
    commit = run_git(
        project, "commit-tree", tree, *parent_options, "-m", message, variables=_build_author(project)
    )
    run_git(project, "update-ref", "-m", "convoy", reference, commit, tip or NULL_COMMIT)
    return commit


def push_branch(project: Path, branch: str) -> str | None:
    """Push a branch to its configured remote (`git config branch.NAME.remote origin`), never by force.

    Returns:
        The remote; None if the branch has none.

    Raises:
        UserError: git refuses.
    """
    remote = run_git(project, "config", "--get", f"branch.{branch}.remote", allow_failure=True)
    if not remote:
        return None
    merge = run_git(project, "config", "--get", f"branch.{branch}.merge", allow_failure=True)
    target = merge or f"refs/heads/{branch}"
    run_git(
        project, "push", "--quiet", remote, f"refs/heads/{branch}:{target}", variables={"GIT_TERMINAL_PROMPT": "0"}
    )
    return remote


def _resolve_commit(project: Path, name: str) -> str | None:
    """Return the commit that a name refers to, or None."""
    try:
        return run_git(project, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except UserError:
        run_git(project, "rev-parse", "--git-dir")  # raises if there is no repository
        return None


def _is_ancestor(project: Path, tip: str | None, head: str) -> bool:
    """Return whether HEAD is in the history of the branch."""
    return tip is not None and run_git(project, "merge-base", tip, head, allow_failure=True) == head


def _build_author(project: Path) -> dict[str, str]:
    """Build an author for git, if git has none configured."""
    if run_git(project, "var", "GIT_COMMITTER_IDENT", allow_failure=True):
        return {}
    identity = {"NAME": "Convoy", "EMAIL": "convoy@localhost"}
    return {f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in identity.items()}


def run_git(
    folder: Path, *arguments: str, allow_failure: bool = False, variables: Mapping[str, str] | None = None
) -> str:
    """Run git and return its output.

    Args:
        folder: working directory.
        *arguments: of git.
        allow_failure: return "" if git fails.
        variables: of its environment.

    Raises:
        UserError: git fails, with its reason, or is not installed.
    """
    env = {**os.environ, **(variables or {})}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        if allow_failure:
            return ""
        raise UserError(f"git {arguments[0]} failed: {' '.join(done.stderr.split())[:300]}")
    return done.stdout.strip()
