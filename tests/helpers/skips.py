"""Skipped tests: a run lists them at its end, and fails in CI if one is not in tests/allowed_skips.txt.

A line of that file is `TEST | REASON`: an id as pytest prints it, in which `*` stands for anything, and a part of
the reason that the skip gives. CI sets CONVOY_CHECK_SKIPS.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.real_data import MISSING_DATA

ALLOWED_SKIPS = Path(__file__).parents[1] / "allowed_skips.txt"


class AllowedSkip(NamedTuple):
    test: str
    reason: str

    def covers(self, test: str, reason: str) -> bool:
        pattern = ".*".join(map(re.escape, self.test.split("*")))
        return re.fullmatch(pattern, test) is not None and self.reason in reason


def read_allowed_skips(path: Path = ALLOWED_SKIPS) -> list[AllowedSkip]:
    """The lines of the list; raises ValueError for one without a reason."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            test, _, reason = (part.strip() for part in line.partition(" | "))
            if not reason:
                raise ValueError(f"{path}: {line!r} is not TEST | REASON")
            found.append(AllowedSkip(test, reason))
    return found


def get_skip_reason(longrepr: object) -> str:
    """The reason of a skipped test's report, which holds (file, line, message)."""
    message = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return " ".join(message.removeprefix("Skipped: ").split())


def find_forbidden_skips(skips: Mapping[str, str], allowed: list[AllowedSkip]) -> dict[str, str]:
    """Those of {test: reason} that no line covers."""
    return {test: why for test, why in skips.items() if not any(one.covers(test, why) for one in allowed)}


def describe_skips(skips: Mapping[str, str]) -> Iterator[str]:
    """One line for each reason: how many tests, why, and in which files."""
    tests_by_reason = defaultdict(list)
    for test, reason in skips.items():
        tests_by_reason[reason].append(test)
    for reason, tests in sorted(tests_by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"{len(tests):4d}  {reason} ({_name_files(tests)})"


def _name_files(tests: Iterable[str]) -> str:
    names = sorted({test.partition("::")[0].removeprefix("tests/") for test in tests})
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more files" if len(names) > 2 else "")


class SkipReporter:
    """A plugin of pytest that names the skipped tests at the end of a run."""

    def __init__(self) -> None:
        self.skips: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Append each test that is skipped for want of real data to the file that CONVOY_LIST_SKIPPED names."""
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        self.skips[report.nodeid] = reason = get_skip_reason(report.longrepr)
        if MISSING_DATA in reason and (path := os.environ.get("CONVOY_LIST_SKIPPED")):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{report.nodeid}\n")

    def find_forbidden(self) -> dict[str, str]:
        if not os.environ.get("CONVOY_CHECK_SKIPS"):
            return {}
        return find_forbidden_skips(self.skips, read_allowed_skips())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and self.find_forbidden():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skips:
            terminalreporter.section(f"{len(self.skips)} skipped")
        for line in describe_skips(self.skips):
            terminalreporter.write_line(line)
        for test, reason in self.find_forbidden().items():
            terminalreporter.write_line(
                f"ERROR {test} is skipped ({reason}); tests/allowed_skips.txt does not allow it"
            )


def register_skip_reporter(config: pytest.Config) -> None:
    """Report skips in the process that pytest-xdist's workers report to, or in the only one."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(SkipReporter())
