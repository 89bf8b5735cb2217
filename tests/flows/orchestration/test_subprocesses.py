import subprocess
import sys

from flows.orchestration import subprocesses
from tests.helpers.processes import has_ended

GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(300)
"""


def test_stopping_takes_grandchildren_in_sessions_of_their_own():
    process = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    grandchild = int(process.stdout.readline())
    subprocesses.stop_process(process, grace_s=0.5)
    assert process.poll() is not None
    assert has_ended(grandchild)


def test_one_that_ignores_the_polite_signal_is_killed():
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True); time.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    process.stdout.readline()
    subprocesses.stop_process(process, grace_s=0.2)
    assert process.returncode == -9


def test_a_server_dies_with_the_process_that_started_it(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from flows.orchestration.subprocesses import start_process\n"
        "log = open('log', 'wb')\n"
        "child = start_process([sys.executable, '-c', 'import time; time.sleep(300)'], log=log,"
        " cwd=Path('.'), env=dict(os.environ))\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -9
    assert has_ended(int(done.stdout))


def test_lines_come_as_they_are_printed_with_the_status_at_the_end(tmp_path):
    statuses = []
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    lines = list(subprocesses.stream_output([sys.executable, "-c", code], cwd=tmp_path, finished=statuses.append))
    assert (lines, statuses) == (["out", "err"], [3])
