from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios

from imageset.utils.progress import RELAY_VARIABLE, Progress, RelayedProgress


def test_a_log_gets_plain_lines() -> None:
    log = io.StringIO()
    with Progress("normalize", stream=log, seconds_between_lines=0) as progress:
        progress.begin(total=1797)
        progress.advance(1200)
        progress.advance(597)
    assert log.getvalue().splitlines() == [
        "normalize: 1,200/1,797 pictures (66%)",
        "normalize: 1,797/1,797 pictures (100%)",
        "normalize: 1,797/1,797 pictures (100%)",
    ]


def test_quick_work_stays_quiet() -> None:
    log = io.StringIO()
    with Progress("normalize", stream=log) as progress:
        progress.begin(total=2)
        progress.advance(2)
    assert log.getvalue() == ""


def test_an_unknown_total_counts_up() -> None:
    log = io.StringIO()
    progress = Progress("predict", stream=log, seconds_between_lines=0)
    progress.begin()
    progress.advance(3)
    assert log.getvalue() == "predict: 3 pictures\n"


WORKS = """
import sys, time
from imageset.utils import progress as module
module.BAR_DELAY_S = 0.1
with module.Progress("work", seconds_between_lines=0.2) as progress:
    progress.begin(total=40, step="first")
    for number in range(40):
        time.sleep(0.02)
        progress.advance()
        if number == 30:
            progress.write("a line")
"""


def read_terminal(command: list[str], **environment: str) -> str:
    """All that a command writes to a terminal of its own."""
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 100))
    process = subprocess.Popen(command, stdout=side, stderr=side, env={**os.environ, **environment})
    os.close(side)
    written = b""
    try:
        while data := os.read(terminal, 65536):
            written += data
    except OSError:  # Linux says so at the end of a terminal
        pass
    os.close(terminal)
    assert process.wait() == 0, written
    return written.decode()


def test_a_terminal_gets_a_bar_with_rate_and_remaining_time() -> None:
    shown = read_terminal([sys.executable, "-c", WORKS])
    assert re.search(r"work: first: +\d+%\|.*\| \d+/40 pictures, \d+\.\d+ pictures/s, 00:0\d left", shown)
    assert re.search(r"\r *\ra line\r\n", shown), "the bar is taken off before a line is written"
    assert not shown.split("\r")[-1].strip(), "nothing of the bar is left"


def test_a_pipe_gets_plain_lines_only() -> None:
    done = subprocess.run([sys.executable, "-c", WORKS], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "a line" in lines and len(lines) > 2
    assert all(re.fullmatch(r"work: first: \d+/40 pictures \(\d+%\)|a line", line) for line in lines)


def test_a_parent_draws_the_bar_of_a_child_that_relays_its_progress() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORKS], capture_output=True, text=True, check=True,
        env={**os.environ, RELAY_VARIABLE: "relay"},
    )  # fmt: skip
    log = io.StringIO()
    relayed = RelayedProgress(log)
    relayed_lines = [line for line in done.stderr.split("\n") if not relayed.show(line)]
    assert relayed_lines == ["a line", ""]
    assert log.getvalue() == ""  # too quick for a line in a log


def test_a_relayed_step_ends_with_its_last_number_and_the_next_begins_at_zero(monkeypatch, capsys) -> None:
    monkeypatch.setenv(RELAY_VARIABLE, "relay")
    with Progress("train") as progress:
        progress.begin(total=5, step="features")
        progress.advance(5)
        progress.begin(total=8, step="3 epochs", unit="batches", done=2)
        progress.advance(6)
    log = io.StringIO()
    monkeypatch.setattr(Progress.__init__, "__kwdefaults__", {**Progress.__init__.__kwdefaults__,
                                                             "seconds_between_lines": 0})  # fmt: skip
    relayed = RelayedProgress(log)
    assert all(relayed.show(line) for line in capsys.readouterr().err.split("\n") if line)
    lines = log.getvalue().splitlines()
    assert "train: features: 5/5 pictures (100%)" in lines
    assert lines[-1] == "train: 3 epochs: 8/8 batches (100%)"
