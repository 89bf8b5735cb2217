from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.helpers.processes import obey_hangup

# A command with a child in a session of its own. "orderly" ends at once, "stubborn" swallows the exception.
COMMAND = """
import subprocess, sys, time
from imageset import termination

termination.GRACE_S = 0.5
termination.listen()
sleep = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(sleep, start_new_session=True)
try:
    while True:
        try:
            print(child.pid, flush=True)
            time.sleep(300)
        except BaseException:
            if sys.argv[1] == "orderly":
                raise
        finally:
            print("cleaned up", flush=True)
finally:
    termination.exit_if_requested()
"""


def start_command(kind: str, **options: object) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start COMMAND; return it and its child."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", COMMAND, kind], **pipes, **options)  # type: ignore[call-overload]
    return process, psutil.Process(int(process.stdout.readline()))


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("orderly", signal.SIGTERM),
        ("orderly", signal.SIGINT),
        ("orderly", signal.SIGHUP),
        ("stubborn", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_command_and_its_children_with_its_status_and_no_traceback(kind: str, number: int) -> None:
    process, child = start_command(kind, preexec_fn=obey_hangup)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "cleaned up" in out
    assert err == ("stopped\n" if kind == "orderly" else "")
    child.wait(30)


def test_ctrl_c_pressed_again_kills_at_once() -> None:
    process, child = start_command("stubborn")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None and process.stdout.readline() == "cleaned up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 128 + signal.SIGINT
    child.wait(30)


def test_a_command_that_ignores_the_end_of_its_terminal_goes_on() -> None:
    process, child = start_command("orderly", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    os.kill(process.pid, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    child.wait(30)
