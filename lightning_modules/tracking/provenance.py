"""Record the origin of a training: the commit, the differences from it, and the lock file of the environment."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

LOCK_FILE = "requirements.lock"
# The files that a reproduction needs; no image folder matches.
PATCH_PATTERNS = ("*.py", "*.yaml", "*.dvc", "dvc.lock", LOCK_FILE)


def read_git_commit(project: Path) -> str | None:
    """Return the commit that is checked out, or None outside git or before the first commit."""
    output = _run_git(project, "rev-parse", "--verify", "--quiet", "HEAD")
    return output.decode().strip() if output else None


def hash_lock_file(project: Path) -> str | None:
    """Return the SHA-256 of requirements.lock, or None if there is no such file."""
    try:
        return hashlib.sha256((project / LOCK_FILE).read_bytes()).hexdigest()
    except OSError:
        return None


def make_patch(project: Path) -> bytes:
    """Return the differences between the working tree and the commit as a patch for `git apply`.

    The patch covers code, parameters and DVC's files, new files included. It is empty if nothing differs or there
    is no commit. The user's own index is not touched.
    """
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        if _run_git(project, "read-tree", "HEAD", **index) is None:
            return b""
        for pattern in PATCH_PATTERNS:  # separately: git rejects all patterns if one matches nothing
            _run_git(project, "add", "-A", "--", pattern, **index)
        return _run_git(project, "diff", "--cached", "--binary", "HEAD", "--", *PATCH_PATTERNS, **index) or b""


def _run_git(project: Path, *arguments: str, **environment: str) -> bytes | None:
    """Return the output of git, or None if the command fails or git is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, check=False,
                              env={**os.environ, **environment})  # fmt: skip
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
