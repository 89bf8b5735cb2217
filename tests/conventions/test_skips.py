"""The list of tests that CI lets be skipped, and what a run says of skipped tests."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers.project import ROOT
from tests.helpers.skips import AllowedSkip, describe_skips, find_forbidden_skips, read_allowed_skips


def find_tests(path: str) -> set[str]:
    file = ROOT / path
    return set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)) if file.is_file() else set()


def test_every_test_that_may_be_skipped_exists():
    allowed = read_allowed_skips()
    gone = []
    for one in allowed:
        path, _, name = one.test.partition("::")
        if name.partition("[")[0].rstrip("*") not in find_tests(path):
            gone.append(one.test)
    assert len(allowed) > 10 and gone == []


def test_each_line_names_another_test_and_a_reason(tmp_path):
    allowed = read_allowed_skips()
    assert len({one.test for one in allowed}) == len(allowed)
    (tmp_path / "list.txt").write_text("tests/test_a.py::test_b\n")
    with pytest.raises(ValueError, match=r"list\.txt: 'tests/test_a\.py::test_b' is not TEST \| REASON"):
        read_allowed_skips(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("test", "reason", "is_allowed"),
    [
        ("a.py::test_x[zsh]", "zsh is not installed", True),
        ("a.py::test_x[zsh]", "the moon is full", False),
        ("a.py::test_x[fish]", "zsh is not installed", False),
        ("a.py::test_y[1]", "no GPU", True),
        ("a.py::test_y", "no GPU", True),
        ("b.py::test_y", "no GPU", False),
    ],
)
def test_a_line_allows_one_test_for_one_reason(test, reason, is_allowed):
    allowed = [AllowedSkip("a.py::test_x[zsh]", "zsh is not installed"), AllowedSkip("a.py::test_y*", "no GPU")]
    assert find_forbidden_skips({test: reason}, allowed) == ({} if is_allowed else {test: reason})


def test_skipped_tests_are_listed_by_reason_the_most_frequent_first():
    skips = {"tests/a.py::test_1": "no GPU", **{f"tests/{n}.py::test_2": "no data" for n in "bcde"}}
    assert list(describe_skips(skips)) == ["   4  no data (b.py, c.py and 2 more files)", "   1  no GPU (a.py)"]


TESTS = """
import pytest
def test_here():
    pytest.skip("the moon is full")
@pytest.mark.xfail
def test_known():
    assert False
"""


@pytest.mark.parametrize(("where", "workers"), [("CI", "0"), ("CI", "1"), ("elsewhere", "0")])
def test_a_skip_that_is_not_allowed_is_said_and_fails_the_run_in_ci_only(tmp_path, where, workers):
    (tmp_path / "test_one.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(
        "from tests.helpers.skips import register_skip_reporter as pytest_configure\n"
    )
    changes = {
        "PYTHONPATH": str(ROOT),
        "CONVOY_CHECK_SKIPS": "1" if where == "CI" else "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # they take seconds
    }
    # Without those of the process that runs this test, which may be a worker.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", workers, "-p", "xdist.plugin", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=inherited | changes,
        capture_output=True,
        text=True,
        check=False,
    )
    refusal = (
        "ERROR test_one.py::test_here is skipped (the moon is full); tests/allowed_skips.txt does not allow it"
    )
    assert "   1  the moon is full (test_one.py)" in done.stdout, done.stdout
    assert (refusal in done.stdout, done.returncode) == ((True, 1) if where == "CI" else (False, 0))
