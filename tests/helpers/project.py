"""Projects to work in, and the commands that run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.project.paths import PROJECT_LOCK, TEMPLATES
from imageset.utils.file_lock import file_lock

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ServedProject:
    """A project in which `convoy run` was called once, and what that printed."""

    folder: Path
    pictures: Path
    output: str


@contextmanager
def hold_project(folder: Path) -> Iterator[None]:
    """Hold the lock of a project as another process does: the flows of this one do not know of it."""
    (folder / PROJECT_LOCK).parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / PROJECT_LOCK) as file:
        file.truncate(0)
        file.write("4711")
        file.flush()
        yield


def run_convoy(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the real command; stdout and stderr together in `.stdout`."""
    env = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments], cwd=folder, env={**env, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False,
    )  # fmt: skip


def copy_params(folder: Path, name: str = "digits-few") -> None:
    """Our params.yaml with the preset `scratch`: a small network, without the choice that `auto` makes first."""
    from flows.project.params_yaml import read_commented_yaml, write_commented_yaml
    from flows.project.presets import merge_preset

    params = read_commented_yaml(ROOT / "params.yaml")
    preset = read_commented_yaml(TEMPLATES / "presets" / "scratch.yaml")
    merge_preset(params, preset, preset, "scratch")
    params["name"] = name
    write_commented_yaml(folder / "params.yaml", params)


def make_project(folder: Path, name: str = "digits-few") -> Path:
    """A project like a fresh clone, but with the preset `scratch`: our files, git with one commit, DVC."""
    copy_params(folder, name)
    for name in ("dvc.yaml", "prefect.yaml", "pyproject.toml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("imageset", "lightning_modules", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    commands = (
        "git init -q",
        f"{sys.executable} -m dvc init -q",
        "git add .",
        "git -c user.name=Test -c user.email=test@localhost commit -q -m all",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    return folder


def set_params(project: Path, **changes) -> None:
    """Change params.yaml; a name's double underscores stand for dots."""
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *outer, last = dotted.split("__")
        section = params
        for key in outer:
            section = section[key]
        section[last] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def start_stage(project: Path, module: str, name: str, **popen) -> subprocess.Popen:
    """Start a stage as DVC does."""
    env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", module, name], cwd=project, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **popen,
    )  # fmt: skip


def run_stage(project: Path, name: str, module: str = "lightning_modules") -> tuple[int, str]:
    """Run a stage to its end; returns its exit status and all it printed."""
    process = start_stage(project, module, name)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output
