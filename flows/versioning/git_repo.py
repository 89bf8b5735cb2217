"""Every call of git."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from imageset.exceptions import UserError

NULL_COMMIT = "0" * 40  # to git: a branch that is not there yet


def check_branch(project: Path, branch: str) -> None:
    """Raise UserError if nothing may be committed to a branch behind its user's back."""
    run_git(project, "check-ref-format", "--branch", branch)
    here = run_git(project, "worktree", "list", "--porcelain").splitlines()
    if f"branch refs/heads/{branch}" in here:
        raise UserError(
            f"params.yaml: after_run.branch: {branch!r} is checked out, and a commit would change what git says "
            "of your files; name another branch, e.g. convoy"
        )


def commit_files(project: Path, branch: str, names: Sequence[str], message: str) -> str | None:
    """Commit files as they lie here to a branch: the tree of HEAD with these files in it, after the branch's last
    commit and after HEAD. Neither the files, the index nor HEAD are touched.

    Args:
        names: relative to the project; those that are not there are left out.

    Returns:
        The new commit; None where it would say nothing new.

    Raises:
        UserError: no git repository, no such branch name, it is checked out, or git refuses.
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
    named = [part for parent in parents for part in ("-p", parent)]
    made = run_git(project, "commit-tree", tree, *named, "-m", message, variables=_build_author(project))
    run_git(project, "update-ref", "-m", "convoy", reference, made, tip or NULL_COMMIT)
    return made


def push_branch(project: Path, branch: str) -> str | None:
    """Push a branch where git is told to (`git config branch.NAME.remote origin`), never by force.

    Returns:
        The remote; None where the branch has none.

    Raises:
        UserError: git refuses.
    """
    remote = run_git(project, "config", "--get", f"branch.{branch}.remote", allow_failure=True)
    if not remote:
        return None
    there = run_git(project, "config", "--get", f"branch.{branch}.merge", allow_failure=True) or f"refs/heads/{branch}"
    run_git(
        project, "push", "--quiet", remote, f"refs/heads/{branch}:{there}", variables={"GIT_TERMINAL_PROMPT": "0"}
    )
    return remote


def _resolve_commit(project: Path, name: str) -> str | None:
    """The commit that a name stands for, if it does."""
    try:
        return run_git(project, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except UserError:
        run_git(project, "rev-parse", "--git-dir")  # raises where there is no repository at all
        return None


def _is_ancestor(project: Path, tip: str | None, head: str) -> bool:
    """Whether HEAD is in the history of the branch."""
    return tip is not None and run_git(project, "merge-base", tip, head, allow_failure=True) == head


def _build_author(project: Path) -> dict[str, str]:
    """Who commits, where git has not been told."""
    if run_git(project, "var", "GIT_COMMITTER_IDENT", allow_failure=True):
        return {}
    return {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Convoy"), ("EMAIL", "convoy@localhost"))}  # fmt: skip


def run_git(
    folder: Path, *arguments: str, allow_failure: bool = False, variables: Mapping[str, str] | None = None
) -> str:
    """What git prints; nothing where it fails and may.

    Raises:
        UserError: it fails, for the reason it gives, or is not there.
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
