"""Exit codes, signals, broken pipe."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from types import FrameType
from typing import NoReturn

from flows.cli.commands import build_parser, run_command
from flows.orchestration import prefect_api
from imageset.exceptions import EXIT_STATUS, UserError


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 2 where the user can mend it, with one line on stderr."""
    arguments = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell script put us in the background
    status = _run_and_report_errors(arguments)
    if prefect_api.is_server_lost():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # nothing of ours is left to do, and Prefect's threads would wait for minutes
    return status


def _run_and_report_errors(arguments: argparse.Namespace) -> int:
    try:
        status = run_command(arguments)
        sys.stdout.flush()
        return status
    except (UserError, ConnectionError) as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            return 128 + signal.SIGPIPE
        print(f"error: {error}", file=sys.stderr)
        return int(getattr(error, "status", EXIT_STATUS))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _is_reader_gone() -> bool:
    """Whether who read what is printed, such as `head`, has had enough."""
    reader = select.poll()
    reader.register(sys.stdout, 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in reader.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python ends
    return gone


def _exit_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends like any exception, so that what we started is stopped on the way out."""
    raise SystemExit(128 + number)
