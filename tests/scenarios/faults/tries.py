"""One try: a fault in one run of a command, the same command once more, and all that is wrong afterwards."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.scenarios.faults.commands import COMMANDS, Command
from tests.scenarios.faults.comparison import FALSE, LOST, Expected, count_running, find_temporary, read_contents
from tests.scenarios.faults.flips import Flip
from tests.scenarios.faults.points import ERRORS, SIGNALS, Point
from tests.scenarios.faults.projects import Slot
from tests.scenarios.faults.tracer import Run, TracedRun, UndisturbedRunFailed, run_function

TRACEBACK = re.compile(r"^\s*Traceback \(most recent call last\)|^Fatal Python error", re.MULTILINE)
TRACED, HUNG, LEFT, STATUS = "traceback", "hang", "left", "status"
PROBLEMS = (FALSE, LOST, TRACED, HUNG, LEFT, STATUS)
SIGNAL_STATUSES = {"kill": (-9,), "kill-main": (-9,), "term": (143, -15), "int": (130, -2)}
MANY = 20  # operations that cleaning up may take, beside a tenth of all
USER_ERROR = 2  # exit status, with one line on stderr


@dataclass
class Try:
    """One disturbed run, and its problems: (one of PROBLEMS, a line about it)."""

    fault: str
    reached: bool = True
    status: int = 0
    output: str = ""
    problems: list[tuple[str, str]] = field(default_factory=list)
    unseen: bool = False  # a flipped file that the command did not read, or whose damage it did not see
    took_s: float = 0.0
    ended_after_s: float = 0.0  # from a signal to the end of the first process

    def to_dict(self) -> dict[str, Any]:
        """For the file of results: what was printed is kept where something is wrong."""
        kept = asdict(self)
        return kept if self.problems else {name: value for name, value in kept.items() if name != "output"}


class Tries:
    """The tries of one command.

    Args:
        slot: where they happen.
        name: the command's.
        api: the address of Prefect's API; None without it.
        patience_s: seconds that a run may take, and that it may take to end after a signal.
    """

    def __init__(self, slot: Slot, name: str, api: str | None, patience_s: tuple[float, float]) -> None:
        self.slot, self.name, self.api, self.patience_s = slot, name, api, patience_s
        self.command: Command = COMMANDS[name]
        self.work = slot.build_work(self.command.words, self.command.starts_server)
        self.operations, self.expected = self._read_undisturbed()
        self.open_runs = list_open_runs(api)  # of earlier tries

    def signal_or_fail(self, kind: str, point: Point) -> Try:
        """Let a signal or an error come at a point."""
        self.slot.restore(self.command.state)
        traced = TracedRun(self.work, self.slot.slot, self.slot.log, kind, point, self.patience_s)
        done = Try(str(point), traced.run.reached, traced.run.status, traced.run.output)
        done.ended_after_s = round(traced.run.ended_after_s, 1)
        if done.reached:
            self._judge_run(done, traced.run, (*SIGNAL_STATUSES.get(kind, ()), USER_ERROR))
            ends_well = traced.run.status in self.command.statuses
            if kind in SIGNALS and ends_well and traced.run.num_later > MANY + len(self.operations) // 10:
                done.problems.append((HUNG, "it goes on as if there had been no signal"))
            if kind in ERRORS and ends_well:
                self._compare(done, traced.run)
            self._run_again(done)
        run = traced.finish()
        done.problems += [(LEFT, f"a process: {command}") for command in run.left]
        self._judge_rest(done)
        return done

    def flip(self, kind: str, flip: Flip) -> Try:
        """Flip a bit; then the command's results must be right, or it says in one line what is damaged."""
        self.slot.restore(self.command.state)
        damaged = flip.apply(self.slot.project, keep_time=kind == "rot")
        run = run_function(self.work, self.slot.log, self.patience_s[0])
        done = Try(str(flip), status=run.status, output=run.output)
        self._judge_run(done, run, (USER_ERROR,))
        path = self.slot.project / flip.path
        done.unseen = path.exists() and path.read_bytes() == damaged
        if run.status in self.command.statuses:
            is_excused = done.unseen and not flip.path.startswith(self.command.vouches_for)
            self._compare(done, run, flip.path if is_excused else "")
            if flip.path.startswith(self.command.must_find):
                done.problems.append((FALSE, "the damage is not reported"))
        elif flip.path.startswith(".cache/") and not done.problems:
            done.problems.append((LOST, f"a damaged cache stops the command: {_shorten(run.output)}"))
        self._judge_rest(done)
        return done

    def _run_again(self, done: Try) -> None:
        run = run_function(self.work, self.slot.log, self.patience_s[0])
        if run.hung:
            done.problems.append((HUNG, "the next run hangs"))
        elif run.status not in (*self.command.statuses, *self.command.status_again):
            done.problems.append((LOST, f"the next run ends with {run.status}: {_shorten(run.output)}"))
        else:
            self._compare(done, run)
        if TRACEBACK.search(run.output):
            done.problems.append((TRACED, f"in the next run: {_shorten(run.output)}"))
        if done.problems:
            done.output += f"\n---- the next run ----\n{run.output}"

    def _judge_run(self, done: Try, run: Run, statuses: tuple[int, ...]) -> None:
        if run.hung:
            done.problems.append((HUNG, "it does not end"))
        elif run.status not in (*self.command.statuses, *statuses):
            done.problems.append((STATUS, f"exit status {run.status}: {_shorten(run.output)}"))
        elif run.status == USER_ERROR and "error: " not in run.output:
            done.problems.append((STATUS, f"exit status 2 without a line that says why: {_shorten(run.output)}"))
        if TRACEBACK.search(run.output):
            done.problems.append((TRACED, _shorten(run.output)))

    def _compare(self, done: Try, run: Run, ignored: str = "") -> None:
        contents = read_contents(self.slot.project, run.output if self.command.is_report else None)
        differences = self.expected.find_differences(contents)
        if ignored.startswith("mlflow.db"):
            differences = [(kind, line) for kind, line in differences if not line.startswith("MLflow")]
        done.problems += [one for one in differences if not (ignored and one[1].startswith(f"{ignored} "))]

    def _judge_rest(self, done: Try) -> None:
        """Add a problem for each temporary file that is left, and for runs that still say RUNNING."""
        left = find_temporary(self.slot.slot) - set(self.expected.temporary)
        done.problems += [(LEFT, f"a file: {name}") for name in sorted(left)]
        if count_running(self.slot.project):  # the next command of `convoy` closes runs whose process died
            run_function(self.slot.build_work(("sync",)), self.slot.log, self.patience_s[0])
            if number := count_running(self.slot.project):
                done.problems.append((LEFT, f"{number} runs of MLflow say RUNNING"))
        still = list_open_runs(self.api)
        if still - self.open_runs and self.name not in ("status", "history"):
            done.problems.append((LEFT, f"{len(still - self.open_runs)} runs of Prefect say RUNNING"))
        self.open_runs |= still

    # ---- undisturbed ------------------------------------------------------------------------------------------

    def _read_undisturbed(self) -> tuple[list[tuple[str, str]], Expected]:
        """Return the operations of an undisturbed run and what is right after it; learnt once for each WORK."""
        path = self.slot.work / "undisturbed" / f"{self.name}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            operations, expected = self._learn()
            path.write_text(json.dumps([operations, asdict(expected)]))
        operations, expected = json.loads(path.read_text())
        return [(operation, name) for operation, name in operations], Expected(**expected)

    def _learn(self) -> tuple[list[tuple[str, str]], Expected]:
        self.slot.restore(self.command.state)
        traced = TracedRun(self.work, self.slot.slot, self.slot.log, with_reading=True).finish()
        once, temporary = self._check_and_read(traced, ()), find_temporary(self.slot.slot)
        again = run_function(self.work, self.slot.log)
        twice = self._check_and_read(again, self.command.status_again)
        temporary |= find_temporary(self.slot.slot)
        self.slot.restore(self.command.state)
        other = self._check_and_read(run_function(self.work, self.slot.log), ())
        return traced.operations, Expected.learn(once, twice, other, temporary)

    def _check_and_read(self, run: Run, more: tuple[int, ...]) -> dict[str, list[str]]:
        if run.hung or run.status not in (*self.command.statuses, *more):
            raise UndisturbedRunFailed(f"{self.name} ends with {run.status}:\n{run.output}")
        return read_contents(self.slot.project, run.output if self.command.is_report else None)


def keep_project(slot: Slot, folder: Path) -> None:
    """Copy the slot as a try left it."""
    shutil.copytree(slot.slot, folder, symlinks=True, dirs_exist_ok=True)


def list_open_runs(api: str | None) -> set[str]:
    """The runs of flows that Prefect believes to be running."""
    if api is None:
        return set()
    from flows.orchestration.prefect_api import call_prefect_api

    body = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}, "limit": 200}
    return {run["id"] for run in call_prefect_api(f"{api}/flow_runs/filter", body, timeout_s=30)}


def _shorten(output: str) -> str:
    """The line that tells most: of an error, else the last."""
    lines = [line for line in output.splitlines() if line.strip()] or [""]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines)[-1][:300]


assert set(SIGNAL_STATUSES) == set(SIGNALS)
