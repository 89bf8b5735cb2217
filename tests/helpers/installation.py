"""An environment in which Convoy is installed from its wheel, as a user has it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.helpers.project import ROOT


def install_wheel(folder: Path) -> Path:
    """Build the wheel and install it into a new environment; return the environment's folder of commands.

    The libraries are those of the environment that the tests run in, which stand behind it on Python's path.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source, environment = folder / "source", folder / "environment"
    run_git_archive(source)
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(source))
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    (wheel,) = (folder / "dist").glob("convoy_vision-*.whl")
    _run(*pip, "--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    (site,) = environment.glob("lib/python*/site-packages")
    # Only its own .pth files are read in this folder: the editable installation stays out.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def run_git_archive(target: Path) -> None:
    """Copy the files of this repository that git tracks, as they are in the working tree."""
    target.mkdir(parents=True)
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
