"""Runs of tests in forks of one process that has imported other packages, each in a copy of the tree."""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.project import ROOT

OURS = ("convoy", "imageset", "lightning_modules", "flows", "tests", "benchmarks", "conftest")
KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"
POLL_S = 0.02
# unraisableexception collects the garbage of all that was imported, twice at the end
WITHOUT_PLUGINS = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "unraisableexception")]


@dataclass(frozen=True)
class Baseline:
    """Tests of a module without any mutant: the fastest first, and the seconds that all took."""

    tests: list[str]
    took_s: float


class Slot:
    """A copy of the tracked tree in which one mutant at a time is written and tested.

    Args:
        folder: of the copy; made anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.log = folder / "log.txt"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                                capture_output=True, text=True, check=True).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name, follow_symlinks=False)
        self.tmp = folder / "tmp"
        self.pid = 0
        self.deadline = 0.0
        self.original: tuple[Path, bytes, os.stat_result] | None = None
        self.num_written = 0

    def write(self, module: str, source: str) -> None:
        """Write a mutant with a modification time of its own: no bytecode of another one fits to it."""
        self.restore()
        path = self.tree / module
        self.original = path, path.read_bytes(), path.stat()
        self.num_written += 1
        path.write_text(source, encoding="utf-8")
        os.utime(path, (self.num_written, self.num_written))

    def restore(self) -> None:
        """Put the module back, with its time: its bytecode fits again."""
        if self.original is not None:
            path, data, found = self.original
            path.write_bytes(data)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
            self.original = None

    def start(self, arguments: list[str], limit_s: float, report: Path | None = None) -> None:
        """Start pytest in a fork.

        Args:
            arguments: of pytest.
            limit_s: seconds after which it is killed.
            report: where to write the durations of tests and the names of imported modules; bytecode is kept, too.
        """
        self.deadline = time.monotonic() + limit_s
        self.pid = os.fork()
        if not self.pid:
            try:
                os._exit(self._run_pytest(arguments, report))
            except BaseException:
                os._exit(9)

    def _run_pytest(self, arguments: list[str], report: Path | None) -> int:
        os.setsid()
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.chdir(self.tree)
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        sys.path[:] = [str(self.tree), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
        os.environ.update(PYTHONPATH=os.pathsep.join([str(self.tree), *_get_other_paths()]), TMPDIR=str(self.tmp))
        if report is None:
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import pytest

        recorder = _Recorder()
        code = int(pytest.main([*arguments, "-x", "-q", "--durations=0", *WITHOUT_PLUGINS,
                                f"--basetemp={self.tmp / 'pytest'}"], plugins=[recorder]))  # fmt: skip
        if report is not None:
            modules = [name for name in sys.modules if name.split(".")[0] not in OURS]
            report.write_text(json.dumps({"durations": recorder.durations, "modules": modules}))
        return code

    def poll(self) -> str | None:
        """Return how the tests ended, or None while they run."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._end_group()
            return SURVIVED if os.waitstatus_to_exitcode(status) == 0 else KILLED
        if time.monotonic() < self.deadline:
            return None
        self.kill()
        return TIMED_OUT

    def wait(self) -> str:
        """Return how the tests ended."""
        while (result := self.poll()) is None:
            time.sleep(POLL_S)
        return result

    def kill(self) -> None:
        """End the tests, and what they started."""
        self._end_group()
        os.waitpid(self.pid, 0)

    def _end_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class _Recorder:
    def __init__(self) -> None:
        self.durations: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: object) -> None:
        name, duration = report.nodeid, report.duration  # type: ignore[attr-defined]
        self.durations[name] = self.durations.get(name, 0) + duration


def _get_other_paths() -> Iterator[str]:
    """PYTHONPATH without the tree of this process."""
    return (entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)
            if entry and Path(entry).resolve() != ROOT)  # fmt: skip


def measure_tests(slots: list[Slot], tests: list[str], deselected: list[str]) -> Baseline | None:
    """Run tests without a mutant; None if one fails.

    The packages that they import are imported here afterwards, so that forks find them, and all slots get the
    bytecode.
    """
    report = slots[0].tmp / "report.json"
    arguments = [*tests, *(f"--deselect={name}" for name in deselected)]
    begin = time.monotonic()
    slots[0].start(arguments, limit_s=900, report=report)
    if slots[0].wait() != SURVIVED:
        return None
    found = json.loads(report.read_text())
    took_s = time.monotonic() - begin
    _import_all(found["modules"])
    gc.collect()
    gc.freeze()  # forks collect what is new to them only
    for slot in slots[1:]:
        for folder in slots[0].tree.rglob("__pycache__"):
            shutil.copytree(folder, slot.tree / folder.relative_to(slots[0].tree), dirs_exist_ok=True)
    return Baseline(sorted(found["durations"], key=found["durations"].get), took_s)


def _import_all(names: list[str]) -> None:
    for name in names:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except Exception:  # made up at run time, or not meant to be imported
                continue
