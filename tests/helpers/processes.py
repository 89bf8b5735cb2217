import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flows.orchestration import subprocesses


def run_git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run_dvc(folder: Path, *arguments: str) -> None:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, env=env, capture_output=True)


HOLD_LIMITS = (
    "import sys; from flows.orchestration.concurrency import acquire_limits\n"
    "with acquire_limits(*sys.argv[1:]):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def hold_limits(api: str, *names: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds these limits until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LIMITS, *names],
        env={**subprocesses.build_environment(), "PREFECT_API_URL": api}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()


def has_ended(pid: int) -> bool:
    """True once a process has ended; one that nobody has asked for its status counts as ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def obey_hangup() -> None:
    """Let a child process obey SIGHUP, also where the tests run under nohup; for `preexec_fn`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
