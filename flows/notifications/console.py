"""The `flows` logger and the progress bar, on the screen of a command and in the log of a flow run.

Every module of this package logs to `get_logger(__name__)`. In a flow run these records also go to the run's log
(`PREFECT_LOGGING_EXTRA_LOGGERS=flows`). `attach_console` shows them on the screen of a `convoy` command as well. A
record with `extra=LOG_ONLY` goes to the run's log only, or with `--verbose` to the screen, too; `--quiet` leaves
warnings and errors on the screen.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from imageset.utils.progress import RELAY_VARIABLE, Progress, RelayedProgress, keep_bars_below
from imageset.utils.text import escape_lines

ROOT_LOGGER = "flows"
LOG_ONLY = {"quiet": True}
QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"


class _ScreenHandler(logging.StreamHandler[TextIO]):
    """A handler that writes bare messages to stderr; stdout is kept for results.

    Args:
        stream: where to write.
        verbosity: QUIET, NORMAL or VERBOSE.
    """

    def __init__(self, stream: TextIO, verbosity: str) -> None:
        super().__init__(stream)
        self.verbosity = verbosity
        self.setLevel(logging.WARNING if verbosity == QUIET else logging.NOTSET)

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out records that are for the run's log only."""
        return self.verbosity == VERBOSE or not getattr(record, "quiet", False)

    def format(self, record: logging.LogRecord) -> str:
        """Return the message; control characters in the names of files and classes are written as escapes."""
        return escape_lines(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message above the progress bar, if there is one."""
        with keep_bars_below(self.stream):
            super().emit(record)


def get_logger(name: str) -> logging.Logger:
    """Return a logger at level INFO, whatever the level of the root is: in a Prefect worker it is WARNING."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    return logger


def attach_console(verbosity: str = NORMAL) -> None:
    """Show the records of the `flows` logger on stderr: with QUIET only warnings, with VERBOSE all of them."""
    logger = logging.getLogger(ROOT_LOGGER)
    logger.propagate = False
    for handler in _find_screen_handlers():
        logger.removeHandler(handler)
    logger.addHandler(_ScreenHandler(sys.stderr, verbosity))
    logging.raiseExceptions = False  # no traceback for a record that cannot be sent to Prefect's server


def _find_screen_handlers() -> list[_ScreenHandler]:
    return [handler for handler in logging.getLogger(ROOT_LOGGER).handlers if isinstance(handler, _ScreenHandler)]


class _LogStream(io.TextIOBase):
    """A text stream whose lines become records of a logger."""

    def __init__(self, logger: logging.Logger, extra: Mapping[str, Any] | None = None) -> None:
        self.logger, self.extra = logger, extra

    def write(self, text: str) -> int:
        """Log every line that is not blank."""
        for line in text.splitlines():
            if line.strip():
                self.logger.info(line, extra=self.extra)
        return len(text)


def shows_bars() -> bool:
    """Return whether progress is shown as bars: on a terminal with a console attached that is not quiet."""
    wanted = any(handler.verbosity != QUIET for handler in _find_screen_handlers())
    return wanted and sys.stderr.isatty()


def make_progress(name: str, logger: logging.Logger) -> Progress:
    """Return a progress bar if stderr is a terminal with a console attached, else progress lines in the log."""
    if shows_bars():
        return Progress(name)
    return Progress(name, stream=_LogStream(logger))  # type: ignore[arg-type]


class ChildOutput:
    """The output of a child process: its progress as a bar, if bars are shown, and its lines as log records.

    Args:
        logger: receives the lines.

    Attributes:
        variables: for the environment of the child.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.variables = {RELAY_VARIABLE: "relay" if shows_bars() else "lines"}
        self._progress = RelayedProgress(sys.stderr, _LogStream(logger, LOG_ONLY))  # type: ignore[arg-type]

    def show_progress(self, line: str) -> bool:
        """Show a line if it reports progress; return whether it does."""
        return self._progress.show(line)

    def close(self) -> None:
        """Remove the bar that a child left that was stopped."""
        self._progress.close()
