"""Fourteen nights of one project, on real pictures: what the README promises of the loop, once from end to end.

    make nights [KEEP=FOLDER]       (python -m tests.scenarios.nights [FOLDER])

Each day pictures come to an inbox and the model that serves tags them; each night the pipeline runs. On the way
files are broken, a recipe is a bad one, another scanner is bought, a night is killed with all its processes, and
a person rolls back. Nothing is faked: git, DVC and its remote, MLflow, Prefect, and the flows that the schedules
call. Then tests.scenarios.agreement compares what ledger, registry, runs, predictions and DVC say. With KEEP the
project stays in FOLDER/project, and `convoy up` there shows all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

from flows.project.project import Project
from tests.helpers.project import make_project, set_params

NAME = "digits"
SOURCE = Path("data") / NAME
EPOCHS = 8
DARK_SHARE = 0.14  # the part of dark pictures once both scanners are in use
NUM_INBOX = 60  # pictures a day: enough to be judged, see params.yaml: monitor.min_pictures
SMALL_PARAMS = {  # what makes a training short; nothing else differs from params.yaml as it comes
    "normalize__size_px": 16,
    "train__model__network__init_args__filters": [16, 32, 32],
    "evaluate__bootstrap__resamples": 200,
    "explain__layers": 3,
    "explain__maps": 4,
    "explain__filters": 1,
    "explain__steps": 4,
    "explain__answers": 1,
    "explain__shifted": 4,
    "explain__windows": 4,
}


@dataclass
class Night:
    """One day and the night after it.

    Attributes:
        asked, ended: when the day's pictures were tagged, and when all was over; ISO 8601, UTC.
        inbox, table: where they came to, and what was said of them.
        runs: what Prefect should know of it: (flow, state) as often as it ran.
    """

    number: int
    what: str
    asked: str
    inbox: Path
    table: Path
    ended: str = ""
    outcomes: list[str] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class KilledRuns:
    """The runs of the night that was killed, and after how long what came next had closed them."""

    prefect_run: str
    mlflow_run: str
    before: tuple[str, str] = ("", "")  # Prefect's state and MLflow's status, after the kill
    after: tuple[str, str] = ("", "")  # when the next command had started
    closed_after_s: float = float("nan")


class DigitPile:
    """scikit-learn's digits, each handed out once, in an order drawn by lot: every handful has the same mix."""

    def __init__(self) -> None:
        from imageset.sources.benchmark_sets.digits import load_digit_images

        self.pixels, self.labels = load_digit_images()
        self.order = iter(np.random.default_rng(0).permutation(len(self.labels)).tolist())

    def take(self, num: int, dark: float = 0.0) -> Iterator[tuple[str, str, bytes]]:
        """(name, label, PNG) of the next digits; dark: the part that another scanner has seen, dark on white."""
        from imageset.html.png import encode_png

        for place in range(num):
            number = next(self.order)
            pixels = 255 - self.pixels[number] if place < round(dark * num) else self.pixels[number]
            yield f"{number:04d}.png", str(self.labels[number]), encode_png(pixels)


def damage(data: bytes) -> list[bytes]:
    """Damage files: empty, truncated, overwritten, another format under an image's name."""
    return [b"", data[: len(data) // 2], data[:30] + bytes(40) + data[70:], b"<html>404 Not Found</html>"]


class Nights:
    """The project, and what was done to it.

    Args:
        home: a folder; the project and DVC's remote are made in it.
        api: the address of a Prefect server's API, to which this process reports, too.
        say: told of each night.
    """

    def __init__(self, home: Path, api: str, say: Callable[[str], None] = print) -> None:
        self.project, self.remote, self.api, self.say = home / "project", home / "remote", api, say
        self.pile = DigitPile()
        self.nights: list[Night] = []
        self.killed: KilledRuns | None = None
        self.cpu_s = 0.0

    # ---- the story ---------------------------------------------------------------------------------------------

    def live(self) -> None:
        """All fourteen. The current folder is the project meanwhile."""
        before, begun_s = Path.cwd(), count_cpu_s()
        self.begin()
        os.chdir(self.project)
        try:
            self.tell()
        finally:
            os.chdir(before)
            self.cpu_s = count_cpu_s() - begun_s

    def begin(self) -> None:
        """A fresh clone with a remote for the data, and the first labelled pictures."""
        self.project.mkdir(parents=True, exist_ok=True)
        make_project(self.project, NAME)
        dvc = [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "store", str(self.remote.resolve())]
        subprocess.run(dvc, cwd=self.project, check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
        set_params(self.project, **SMALL_PARAMS, train__trainer__max_epochs=2, after_run__commit=True,
                   monitor__retrain__enabled=True)  # fmt: skip
        (self.project / "data" / "predictions").mkdir(parents=True)
        self.learn_from(600)

    def tell(self) -> None:
        """Night after night."""
        with self.night("the first pictures, a short training", num=0):
            self.run()
        with self.night("nothing new to learn"):
            self.run()
        with self.night("nothing new to learn"):
            self.run()
        with self.night("pictures come, some of them broken; a longer training", broken=3):
            self.learn_from(150, broken=4)
            set_params(self.project, train__trainer__max_epochs=EPOCHS)
            self.run()
        with self.night("nothing new to learn"):
            self.run()
        with self.night("a bad recipe"):
            set_params(self.project, train__trainer__max_epochs=1, train__model__optimizer__init_args__lr=1e-6)
            self.run()
        with self.night("the good recipe is back"):
            set_params(
                self.project, train__trainer__max_epochs=EPOCHS, train__model__optimizer__init_args__lr=0.002
            )
            self.run()
        with self.night("another scanner: drift", num=120, dark=1.0) as night:
            self.run()
            self.label(night.inbox)
        with self.night("drift again: trained anew before the night", num=100, dark=1.0):
            self.run()
        with self.night("pictures come; killed within the training", dark=DARK_SHARE):
            self.learn_from(150, dark=DARK_SHARE)
            self.kill()
        with self.night("goes on after the kill", dark=DARK_SHARE, close_killed=True):
            self.run()
        with self.night("rolled back by hand", dark=DARK_SHARE):
            self.run()
            self.roll_back()
        with self.night("what was rolled back does not come back", dark=DARK_SHARE):
            self.run()
        with self.night("nothing new to learn; the weekly check", dark=DARK_SHARE):
            self.run()
            self.check()

    # ---- what happens in a night -------------------------------------------------------------------------------

    @contextmanager
    def night(
        self, what: str, num: int = NUM_INBOX, dark: float = 0.0, broken: int = 0, close_killed: bool = False
    ) -> Iterator[Night]:
        """The day's pictures come and are tagged; what the night does is the block."""
        number = len(self.nights) + 1
        night = Night(number, what, now(), Path(f"data/inbox/night-{number:02d}"),
                      Path(f"data/predictions/night-{number:02d}.parquet"))  # fmt: skip
        self.nights.append(night)
        if close_killed:
            self.close_killed()
        night.inbox.mkdir(parents=True)
        for name, _, data in self.pile.take(num, dark):
            (night.inbox / name).write_bytes(data)
        if broken:
            ((_, _, data),) = self.pile.take(1)
            for place, bad in enumerate(damage(data)[:broken]):
                (night.inbox / f"broken-{place}.png").write_bytes(bad)
        if num:
            self.tag(night)
        yield night
        night.ended = now()
        self.say(f"night {number:2d}  {what}: {'; '.join(night.outcomes)}")

    def tag(self, night: Night) -> None:
        """Predict, and with it look for drift, which may train."""
        from flows.orchestration import crash_recovery
        from flows.predict import predict

        night.asked = now()
        with crash_recovery.record_process(Project(self.project), "convoy predict"):
            predicted = predict(str(night.inbox), str(night.table))
        night.runs.append(("predict", "Completed"))
        night.outcomes.append(f"{predicted.num_rows} tagged by version {predicted.version.number}")
        monitored = predicted.monitor_result
        assert monitored is not None and monitored.batch is not None
        night.outcomes.append(str(monitored.batch["state"]))
        if monitored.retrain_entry is not None:
            night.runs.append(("pipeline", "Completed"))
            night.outcomes.append("trained anew")

    def learn_from(self, num: int, dark: float = 0.0, broken: int = 0) -> None:
        """Labelled pictures come to the source."""
        for name, label, data in self.pile.take(num, dark):
            self.label_one(name, label, data)
        if broken:
            ((_, label, data),) = self.pile.take(1)
            for place, bad in enumerate(damage(data)[:broken]):
                self.label_one(f"broken-{place}.png", label, bad)

    def label(self, inbox: Path) -> None:
        """A person gives the pictures of an inbox their labels."""
        for path in sorted(inbox.iterdir()):
            self.label_one(path.name, str(self.pile.labels[int(path.stem)]), path.read_bytes())

    def label_one(self, name: str, label: str, data: bytes) -> None:
        folder = self.project / SOURCE / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    def run(self) -> None:
        """The pipeline, as its schedule calls it."""
        from flows.orchestration import crash_recovery
        from flows.pipeline import pipeline

        with crash_recovery.record_process(Project(self.project), "convoy run"):
            decision = pipeline(str(SOURCE))
        self.nights[-1].runs.append(("pipeline", "Completed"))
        verb = "serves" if decision.serves else "does not serve"
        self.nights[-1].outcomes.append(
            f"version {decision.version.number} {verb}{'' if decision.is_new else ', as before'}"
        )

    def roll_back(self) -> None:
        """A person is not content."""
        from flows.orchestration import crash_recovery
        from flows.promotion.rollback import rollback

        with crash_recovery.record_process(Project(self.project), "convoy rollback"):
            done = rollback(Project(self.project), NAME, "somebody complained")
        self.nights[-1].outcomes.append(f"version {done.serves.number} serves again")

    def check(self) -> None:
        """The weekly flow; it fails where something is wrong."""
        from flows.full_check import full_check

        checked = full_check()
        self.nights[-1].runs.append(("full-check", "Completed"))
        self.nights[-1].outcomes.append(str(checked))

    # ---- the night that is killed ------------------------------------------------------------------------------

    def kill(self) -> None:
        """`convoy run` as a process of its own; it and all that it started get SIGKILL in the third epoch."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        run = subprocess.Popen(
            [sys.executable, "-m", "flows", "run", str(SOURCE)], cwd=self.project, text=True,
            env={**env, "PREFECT_API_URL": self.api}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert run.stderr is not None
        said = []
        for line in run.stderr:
            said.append(line)
            if line.startswith("train: epoch 2/"):
                break
        tree = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
        for process in tree:
            process.kill()
        assert run.wait() < 0, "".join(said)
        (note,) = (self.project / ".cache/runs").glob("*.json")
        (prefect_run,) = json.loads(note.read_text())["apis"]
        (training,) = (self.project / ".cache/train").glob("*/run_id")
        self.killed = KilledRuns(prefect_run, training.read_text())
        self.killed.before = self.states_of_killed()
        self.nights[-1].runs.append(("pipeline", "Crashed"))
        self.nights[-1].outcomes.append(f"killed: {' and '.join(self.killed.before)}")

    def states_of_killed(self) -> tuple[str, str]:
        """Return the states of the two runs in Prefect and MLflow."""
        from flows.orchestration.prefect_api import call_prefect_api

        assert self.killed is not None
        with closing(sqlite3.connect(f"file:{self.project / 'mlflow.db'}?mode=rw", uri=True, timeout=20)) as store:
            query = "SELECT status FROM runs WHERE run_uuid = ?"
            ((status,),) = store.execute(query, [self.killed.mlflow_run]).fetchall()
        state = call_prefect_api(f"{self.api}/flow_runs/{self.killed.prefect_run}", timeout_s=20)["state_name"]
        return state, status

    def close_killed(self) -> None:
        """The next command that starts closes both; which one, is all the same."""
        from flows.orchestration import concurrency

        assert self.killed is not None
        begun = time.monotonic()
        env = {**os.environ, "PREFECT_API_URL": self.api}
        next_one = subprocess.Popen(
            [sys.executable, "-m", "flows", "sync"], cwd=self.project, env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with next_one:
            while (states := self.states_of_killed()) != ("Crashed", "KILLED") and next_one.poll() is None:
                time.sleep(0.2)
            self.killed.closed_after_s = time.monotonic() - begun
        self.killed.after = states if next_one.returncode == 0 else self.states_of_killed()
        concurrency.release_limits(
            self.api
        )  # as a server does when the lease runs out, but not the one that tests have
        self.nights[-1].outcomes.append(
            f"{' and '.join(self.killed.after)} {self.killed.closed_after_s:.1f} s after the start"
        )


def now() -> str:
    return datetime.now(UTC).isoformat()


def count_cpu_s() -> float:
    """CPU seconds of this process and of all that it started, the servers at work among them."""
    ended = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return ended + sum(sum(one.cpu_times()[:2]) for one in psutil.Process().children(recursive=True))


def main() -> None:
    """Live the nights in a folder, and compare; status 1 where something does not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="kept; else a temporary one")
    options = parser.parse_args()
    if options.folder is not None and options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"error: {options.folder} is not empty; name a new folder")
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.folder or Path(temporary)).resolve()
        (home / "project").mkdir(parents=True)
        wrong = run_and_compare(home)
        if options.folder is not None:
            print(f"kept in {home / 'project'}; to look at it: cd there, `convoy up`")
    sys.exit(1 if wrong else 0)


def run_and_compare(home: Path) -> list[str]:
    """The nights with a Prefect server of the project's own; returns what does not agree."""
    from flows.orchestration.prefect_server import use_prefect_server

    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        os.environ.pop(name, None)
    with use_prefect_server(Project(home / "project")):
        from prefect.settings import PREFECT_API_URL

        from tests.scenarios import agreement

        nights = Nights(home, str(PREFECT_API_URL.value()))
        nights.live()
        wrong = agreement.disagreements(nights)
    print(f"{len(wrong)} disagreements", *wrong, sep="\n  ")
    print(f"{nights.cpu_s:.0f} s of CPU")
    return wrong


if __name__ == "__main__":
    main()
