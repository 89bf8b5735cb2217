"""The entry point of `convoy`: exit status, signals, and a reader that closes the pipe."""

from __future__ import annotations

import os
import select
import signal
import sys

from imageset import termination
from imageset.exceptions import EXIT_STATUS

WINDOWS_ADVICE = (
    "Convoy does not run on Windows itself; it runs in its Linux subsystem: `wsl --install` there, then install "
    "Convoy in that Linux and keep the project in its file system, not below /mnt/c"
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 2, with one line on stderr, for an error that the user can fix."""
    if sys.platform == "win32":  # before anything is imported that exists only on the other systems
        print(f"error: {WINDOWS_ADVICE}", file=sys.stderr)
        return EXIT_STATUS
    termination.listen()
    try:
        status = _run_and_report_errors(argv)
    finally:
        termination.exit_if_requested()
    from flows.orchestration import prefect_api  # here, so that `convoy --help` does not load it

    if prefect_api.is_server_lost():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # all work is done, and Prefect's threads would wait for minutes
    return status


def _run_and_report_errors(argv: list[str] | None) -> int:
    try:
        from flows.cli.commands import build_parser, run_command

        status = run_command(build_parser().parse_args(argv))
        sys.stdout.flush()
        return status
    except Exception as error:  # while modules are loaded, too: the memory may not suffice
        from imageset.system_errors import report_error  # here, since most commands have no error

        if isinstance(error, BrokenPipeError) and not termination.is_requested() and _is_reader_gone():
            return 128 + signal.SIGPIPE
        return report_error(error)


def _is_reader_gone() -> bool:
    """Return whether the reader of the standard output, such as `head`, has closed the pipe."""
    reader = select.poll()
    reader.register(sys.stdout, 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in reader.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python ends
    return gone
