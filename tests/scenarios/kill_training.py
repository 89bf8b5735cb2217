"""Kill a training again and again, at random moments, and see whether it ends as if nothing had been.

    python -m tests.scenarios.kill_training [--kills 25] [--seed 0]

Every third kill comes while a checkpoint is being written; every fifth is a SIGTERM. After each, the same command
is called again; then weights, curves and MLflow's run must be those of an undisturbed training.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.helpers.project import copy_params, set_params

ENDED_BEFORE = "status 0, "  # it had ended before the signal came
FEATURES = ("weights.safetensors", "history.csv")


def main() -> int:
    """Print a line for each kill; 1 if any of them left a trace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import_all()
    with tempfile.TemporaryDirectory() as folder:
        project = make_training_project(Path(folder) / "project")
        calm = Path(shutil.copytree(project, Path(folder) / "calm"))
        start = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(start_training(calm), 0)[1]) == 0
        duration = time.monotonic() - start
        chance, traces = random.Random(options.seed), 0
        number = 0
        while number < options.kills:
            killed = Path(shutil.copytree(project, Path(folder) / "killed"))
            start = time.monotonic()
            said = (
                kill_and_resume(killed, number, chance, duration)
                + ": "
                + (find_differences(calm, killed) or "no trace")
            )
            if ENDED_BEFORE in said:  # the machine has become faster since
                duration = min(duration, (time.monotonic() - start) * 0.9) * 0.9
                shutil.rmtree(killed)
                continue
            print(f"kill {number + 1}: {said}", flush=True)
            traces += not said.endswith("no trace")
            shutil.rmtree(killed)
            number += 1
    print(f"{options.kills} kills, {traces} left a trace")
    return bool(traces)


def import_all() -> None:
    """Once, for all the processes that are forked from this one."""
    import mlflow.pyfunc  # noqa: F401

    import lightning_modules.training.stage  # noqa: F401


def make_training_project(project: Path) -> Path:
    """The handwritten digits, normalized; 4 epochs of 18 steps; a checkpoint after every batch."""
    from imageset.__main__ import main as normalize
    from imageset.raw.ingestion import ingest_source
    from imageset.sources.benchmark_sets.digits import write_digits
    from imageset.sources.factory import open_source
    from lightning_modules.tracking.client import connect_to_mlflow

    project.mkdir()
    copy_params(project)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    write_digits(project / "data" / "digits", project / "data" / "inbox")
    ingest_source(open_source(str(project / "data" / "digits")), project / "data" / "raw")
    set_params(project, train__trainer__max_epochs=4, normalize__size_px=16, train__checkpoint_every_min=0)
    os.chdir(project)
    assert normalize(["normalize"]) == 0
    run_in_process(lambda: bool(connect_to_mlflow(project)))
    return project


def start_training(project: Path) -> int:
    """Start `python -m lightning_modules fit`, without its imports; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.chdir(project)
    with Path("fit.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    from lightning_modules.__main__ import main as lightning_modules

    try:
        os._exit(lightning_modules(["fit"]))
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def kill_and_resume(project: Path, number: int, chance: random.Random, duration: float) -> str:
    """One kill, then the same command to its end; says what was done."""
    pid = start_training(project)
    how = signal.SIGTERM if number % 5 == 4 else signal.SIGKILL
    delay = chance.uniform(0, duration)
    writing = number % 3 == 2
    if writing:
        some = chance.randrange(1, 60)
        wait_until(pid, lambda: count_steps(project) >= some and any(project.glob(".cache/train/*/.*.partial")))
    else:
        until = time.monotonic() + delay
        wait_until(pid, lambda: time.monotonic() >= until)
    with suppress(ProcessLookupError):
        os.kill(pid, how)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    after = count_steps(project)
    again = os.waitstatus_to_exitcode(os.waitpid(start_training(project), 0)[1]) if status else 0
    moment = "while writing" if writing else f"after {delay:.2f} s"
    return f"{how.name} {moment}, step {after}, status {status}, then {again}"


def run_in_process(work: Callable[[], Any]) -> Any:
    """Return the result of `work` in another process: a process that forks must not keep a database open."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, pickle.dumps(work()))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        given = file.read()
    os.waitpid(pid, 0)
    return pickle.loads(given)


def wait_until(pid: int, done: Callable[[], bool]) -> None:
    """Until `done`, or the process has ended."""
    while not done() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)


def count_steps(project: Path) -> int:
    """After how many steps the last checkpoint was written."""
    return max((int(path.name.split("-")[1]) for path in project.glob(".cache/train/*/last-*.ckpt")), default=0)


def find_differences(calm: Path, killed: Path) -> str:
    """Return the differences between two trainings."""
    found = [name for name in FEATURES if read_content(calm, name) != read_content(killed, name)]
    if read_content(killed, "run.json"):
        found += run_in_process(lambda: check_history(killed))
    if list((killed / ".cache" / "train").glob("*/*")):
        found.append("files left in .cache/train")
    return ", ".join(found)


def read_content(project: Path, name: str) -> bytes:
    path = project / "data" / "models" / "classifier" / name
    return path.read_bytes() if path.exists() else b""


def check_history(project: Path) -> list[str]:
    """Return the problems of the MLflow run: a second run, a point that is missing or doubled, not FINISHED."""
    from lightning_modules.tracking.client import connect_to_mlflow

    client = connect_to_mlflow(project)
    (experiment,) = [one for one in client.search_experiments() if one.name == "digits"]
    runs = client.search_runs([experiment.experiment_id])
    run_id = json.loads(read_content(project, "run.json"))["run_id"]
    points = [point.step for point in client.get_metric_history(run_id, "train_loss")]
    wrong = [] if len(runs) == 1 else [f"{len(runs)} runs"]
    wrong += [] if points == [0, 1, 2, 3] else [f"points {points}"]
    wrong += [] if client.get_run(run_id).info.status == "FINISHED" else ["run not FINISHED"]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
