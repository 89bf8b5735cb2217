"""What a person sees: the `flows` logger, message by message, and the progress of what takes long.

Every module here logs to `get_logger(__name__)`. In a flow run those records also go into the run's log
(`PREFECT_LOGGING_EXTRA_LOGGERS=flows`); `attach_console` shows them on the screen of a `convoy` command as well.
A record with `extra=QUIET` is for the run's log only.
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
    """Bare messages on stderr; stdout is kept for results."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "quiet", False)


def get_logger(name: str) -> logging.Logger:
    """A logger whose INFO counts, whatever the root's level is: in a worker that is WARNING."""
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    return logger


def attach_console() -> None:
    """Show what the flows say on stderr; for the `convoy` command."""
    logger = logging.getLogger(ROOT_LOGGER)
    logger.propagate = False
    for handler in _find_screen_handlers():
        logger.removeHandler(handler)
    logger.addHandler(_ScreenHandler(sys.stderr))
    logging.raiseExceptions = False  # a line that could not be sent to a server is no story of its own


def _find_screen_handlers() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger(ROOT_LOGGER).handlers if isinstance(handler, _ScreenHandler)]


class _LogStream(io.TextIOBase):
    """A stream whose lines become records of a logger."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self.logger.info(line)
        return len(text)


def make_progress(name: str, logger: logging.Logger) -> Progress:
    """A bar where stderr is a terminal that somebody watches, else lines in the log."""
    if _find_screen_handlers() and sys.stderr.isatty():
        return Progress(name)
    return Progress(name, stream=_LogStream(logger))  # type: ignore[arg-type]
