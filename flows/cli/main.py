"""The entry point of `convoy`: exit status, signals, and a reader that closes the pipe."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from types import FrameType
from typing import NoReturn

from imageset.exceptions import EXIT_STATUS, UserError
from imageset.utils.text import escape_lines

WINDOWS_ADVICE = (
    "Convoy does not run on Windows itself; it runs in its Linux subsystem: `wsl --install` there, then install "
    "Convoy in that Linux and keep the project in its file system, not below /mnt/c"
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 2, with one line on stderr, for an error that the user can fix."""
    if sys.platform == "win32":  # before anything is imported that exists only on the other systems
        print(f"error: {WINDOWS_ADVICE}", file=sys.stderr)
        return EXIT_STATUS
    try:
        arguments = _parse_arguments(argv)
    except Exception as error:  # the memory may not suffice to load the modules
        return _report_system_error(error)
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script starts background jobs without it
    status = _run_and_report_errors(arguments)
    from flows.orchestration import prefect_api  # here, so that `convoy --help` does not load it

    if prefect_api.is_server_lost():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # all work is done, and Prefect's threads would wait for minutes
    return status


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    from flows.cli.commands import build_parser

    return build_parser().parse_args(argv)


def _run_and_report_errors(arguments: argparse.Namespace) -> int:
    from flows.cli.commands import run_command

    try:
        status = run_command(arguments)
        sys.stdout.flush()
        return status
    except (UserError, ConnectionError) as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            return 128 + signal.SIGPIPE
        print(f"error: {escape_lines(str(error))}", file=sys.stderr)
        return int(getattr(error, "status", EXIT_STATUS))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _report_system_error(error)


def _report_system_error(error: Exception) -> int:
    """Report a full disk, missing memory and the like in one line; raise any other error again."""
    from imageset.system_errors import describe_system_error  # here, since most commands have no such error

    line = describe_system_error(error)
    if line is None:
        raise error
    print(f"error: {escape_lines(line)}", file=sys.stderr)
    return EXIT_STATUS


def _is_reader_gone() -> bool:
    """Return whether the reader of the standard output, such as `head`, has closed the pipe."""
    reader = select.poll()
    reader.register(sys.stdout, 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in reader.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python ends
    return gone


def _exit_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """End on SIGTERM as on any exception, so that child processes are stopped on the way out."""
    raise SystemExit(128 + number)
