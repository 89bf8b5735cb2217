"""Shared by the benchmarks: the data sets, rows of results, peak memory, and training by the real commands."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("CONVOY_TEST_DATA", ROOT.parent / "shared" / "datasets")).resolve()
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
WARM_UP_STEPS = 20  # steps that are not counted

PROBE = """
import json, time
from pathlib import Path
from pytorch_lightning.callbacks import Callback

class Probe(Callback):
    times = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.times.append(time.perf_counter())

    def on_train_end(self, trainer, pl_module):
        Path("times.json").write_text(json.dumps(self.times))
"""


def make_row(name: str, ours: float, peer: float, goal: float, unit: str) -> dict[str, Any]:
    """One row; ratio is ours over peer, larger is better."""
    return {
        "name": name,
        "ours": float(f"{ours:.4g}"),
        "peer": float(f"{peer:.4g}"),
        "ratio": round(ours / peer, 2),
        "goal": goal,
        "unit": unit,
    }


def measure_peak_mb(command: list[Any]) -> float:
    """Measure the most memory that a command and its children hold of their own at any time."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(read_anonymous_kb, list_process_tree(process.pid))))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"error: {command[:3]} ended with status {process.returncode}")
    return peak / 1000


def list_process_tree(pid: int) -> list[int]:
    """List a process and all its children."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):  # it has ended
                found += map(int, task.read_text().split())
    return found


def read_anonymous_kb(pid: int) -> int:
    """Memory of its own that a process holds; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def unpack_dataset(archive: str, target: Path) -> None:
    """Unpack one of the shared sets."""
    with tarfile.open(DATASETS / archive) as file:
        file.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def train_and_time(project: Path, change: Mapping[str, Any], test: bool = False) -> tuple[float, float, float]:
    """Train with the real command: the test accuracy, the median seconds of a step, those of the whole command."""
    write_train_params(project, change)
    for leftover in (".cache", "data/models", "mlflow.db", "mlartifacts"):
        path = project / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    start = time.perf_counter()
    run_command([sys.executable, "-m", "lightning_modules", "fit"], project)
    seconds = time.perf_counter() - start
    accuracy = 0.0
    if test:
        run_command([sys.executable, "-m", "lightning_modules", "test"], project)
        accuracy = json.loads((project / "metrics.json").read_text())["test"]["accuracy"]
    return accuracy, read_step_s(project), seconds


def read_step_s(project: Path) -> float:
    """Return the median of the steps that were noted last, without the first."""
    times = json.loads((project / "times.json").read_text())
    first = min(WARM_UP_STEPS, len(times) // 2)
    return statistics.median(b - a for a, b in zip(times[first:], times[first + 1 :], strict=False))


def write_train_params(project: Path, change: Mapping[str, Any]) -> None:
    """Write params.yaml: the preset `scratch` with some of `train` changed, and the probe as a callback."""
    import yaml

    params = read_scratch_params()
    merge_params(params["train"], change)
    params["train"]["trainer"]["callbacks"] = [{"class_path": "probe.Probe"}]
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def read_scratch_params() -> dict[str, Any]:
    """Return the repository's params.yaml with the preset `scratch`."""
    import yaml

    from flows.project.paths import TEMPLATES

    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    merge_params(params, yaml.safe_load((TEMPLATES / "presets" / "scratch.yaml").read_text()))
    return params


def merge_params(into: dict[str, Any], change: Mapping[str, Any]) -> None:
    """As `convoy preset` does: a mapping with a class path replaces, others are merged."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict) and "class_path" not in value:
            merge_params(into[key], value)
        else:
            into[key] = value


def make_project(project: Path, make: Callable[[Path], Any], **normalize: Any) -> Path:
    """Make a folder with params.yaml, the source, the normalized dataset, and its pixels for the plain script."""
    if project.exists():
        return project
    import yaml

    project.mkdir(parents=True)
    make(project / "source")
    (project / "probe.py").write_text(PROBE)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    merge_params(params["normalize"], normalize)
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    run_python("from imageset.raw.ingestion import ingest_source; ingest_source('source', 'data/raw')", project)
    run_command([sys.executable, "-m", "imageset", "normalize"], project)
    run_python(
        "import numpy as np\n"
        "from imageset.store.reader import ImageStore\n"
        "store = ImageStore.open('data/normalized')\n"
        "for name in ('train', 'test'):\n"
        "    split = store.split(name)\n"
        "    np.save(f'{name}-pixels.npy', split.read_batch(np.arange(len(split))))\n"
        "    np.save(f'{name}-labels.npy', split.labels)\n",
        project,
    )
    return project


def run_python(code: str, project: Path, *arguments: Any) -> str:
    """Run code in a process of its own; return what it prints."""
    return run_command([sys.executable, "-c", code, *map(str, arguments)], project)


def run_command(command: list[Any], project: Path) -> str:
    """Run to its end; what it printed.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    paths = os.pathsep.join([str(ROOT), str(project), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    env.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {command[1:3]} ended with status {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout
