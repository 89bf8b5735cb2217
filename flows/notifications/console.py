"""The `flows` logger and the progress bar, on the screen of a command and in the log of a flow run.

Every module of this package logs to `get_logger(__name__)`. In a flow run these records also go to the run's log
(`PREFECT_LOGGING_EXTRA_LOGGERS=flows`). `attach_console` shows them on the screen of a `convoy` command as well. A
record with `extra=LOG_ONLY` goes to the run's log only.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import TextIO

from imageset.utils.progress import Progress

ROOT_LOGGER = "flows"
LOG_ONLY = {"quiet": True}


class _ScreenHandler(logging.StreamHandler[TextIO]):
    """A handler that writes bare messages to stderr; stdout is kept for results."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out records that are for the run's log only."""
        return not getattr(record, "quiet", False)


def get_logger(name: str) -> logging.Logger:
    """Return a logger at level INFO, whatever the level of the root is: in a Prefect worker it is WARNING."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    return logger


def attach_console() -> None:
    """Show the records of the `flows` logger on stderr."""
    logger = logging.getLogger(ROOT_LOGGER)
    logger.propagate = False
    for handler in _find_screen_handlers():
        logger.removeHandler(handler)
    logger.addHandler(_ScreenHandler(sys.stderr))
    logging.raiseExceptions = False  # no traceback for a record that cannot be sent to Prefect's server


def _find_screen_handlers() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger(ROOT_LOGGER).handlers if isinstance(handler, _ScreenHandler)]


class _LogStream(io.TextIOBase):
    """A text stream whose lines become records of a logger."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def write(self, text: str) -> int:
        """Log every line that is not blank."""
        for line in text.splitlines():
            if line.strip():
                self.logger.info(line)
        return len(text)


def make_progress(name: str, logger: logging.Logger) -> Progress:
    """Return a progress bar if stderr is a terminal with a console attached, else progress lines in the log."""
    if _find_screen_handlers() and sys.stderr.isatty():
        return Progress(name)
    return Progress(name, stream=_LogStream(logger))  # type: ignore[arg-type]
