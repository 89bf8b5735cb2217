"""Progress reports: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A progress report on stderr, or on another stream.

    with Progress("normalize") as progress:
        progress.begin(total=1797)
        progress.advance(64)

    In a terminal this is a tqdm bar. Elsewhere it prints lines such as "normalize: 1,200/1,797 pictures (67%)",
    the first line after a few seconds, so that quick work prints nothing.

    Args:
        name: printed before each number.
        unit: the unit that is counted, in the plural.
        stream: where to print; None: `sys.stderr`.
        seconds_between_lines: least time between two lines of a log.
    """

    def __init__(
        self,
        name: str,
        *,
        unit: str = "pictures",
        stream: TextIO | None = None,
        seconds_between_lines: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        self.name, self.unit, self._unit = name, unit, unit
        self._stream = stream
        self._seconds_between_lines = seconds_between_lines
        self._title, self._total, self._done = name, None, 0  # type: tuple[str, int | None, int]
        self._printed_at = time.monotonic()
        self._has_printed = False
        self._bar: Any = None

    def begin(self, total: int | None = None, step: str = "", unit: str | None = None) -> None:
        """Start the work, or its next step; `total` is the number of units, None if it is not known."""
        self.end()
        self._unit = unit or self.unit
        self._title = f"{self.name}: {step}" if step else self.name
        self._total, self._done, self._has_printed = total, 0, False
        self._printed_at = time.monotonic()
        stream = self._stream or sys.stderr
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc=self._title,
                unit=f" {self._unit}",
                file=stream,
                leave=False,
                mininterval=0.2,
                dynamic_ncols=True,
            )

    def advance(self, num: int = 1) -> None:
        """Report that `num` more units are done."""
        self._done += num
        if self._bar is not None:
            self._bar.update(num)
        elif time.monotonic() - self._printed_at >= self._seconds_between_lines:
            self._print_line()

    def end(self) -> None:
        """Finish the step; print the last number if the log has a line of this step."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._has_printed:
            self._print_line()
        self._has_printed, self._done = False, 0

    def _print_line(self) -> None:
        done = f"{self._done:,}/{self._total:,}" if self._total else f"{self._done:,}"
        share = f" ({100 * self._done // self._total}%)" if self._total else ""
        print(f"{self._title}: {done} {self._unit}{share}", file=self._stream or sys.stderr, flush=True)
        self._printed_at, self._has_printed = time.monotonic(), True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class SilentProgress(Progress):
    """A progress report that prints nothing; the default of functions that take a progress."""

    def __init__(self) -> None:
        super().__init__("")

    def begin(self, total: int | None = None, step: str = "", unit: str | None = None) -> None:
        """Do nothing."""

    def advance(self, num: int = 1) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""
