"""Where a training comes from: the commit, what differed from it, and the lock of the environment."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

LOCK_FILE = "requirements.lock"
PATCH_PATTERNS = (
    "*.py",
    "*.yaml",
    "*.dvc",
    "dvc.lock",
    LOCK_FILE,
)  # what a reproduction needs; never a folder of pictures


def read_git_commit(project: Path) -> str | None:
    """The commit that is checked out, or None outside git or before the first commit."""
    found = _run_git(project, "rev-parse", "--verify", "--quiet", "HEAD")
    return found.decode().strip() if found else None


def hash_lock_file(project: Path) -> str | None:
    """SHA-256 of requirements.lock, or None where there is none."""
    try:
        return hashlib.sha256((project / LOCK_FILE).read_bytes()).hexdigest()
    except OSError:
        return None


def make_patch(project: Path) -> bytes:
    """What code, parameters and DVC's files differ in from the commit, new files included, as a patch for
    `git apply`; empty where nothing differs or there is no commit. The user's own index is not touched."""
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        if _run_git(project, "read-tree", "HEAD", **index) is None:
            return b""
        for pattern in PATCH_PATTERNS:  # one by one: git refuses all if one matches nothing
            _run_git(project, "add", "-A", "--", pattern, **index)
        return _run_git(project, "diff", "--cached", "--binary", "HEAD", "--", *PATCH_PATTERNS, **index) or b""


def _run_git(project: Path, *arguments: str, **environment: str) -> bytes | None:
    """What git prints, or None if it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, check=False,
                              env={**os.environ, **environment})  # fmt: skip
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
