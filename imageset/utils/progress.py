"""Progress reports: a bar in a terminal, plain lines in a log, JSON lines for a parent that draws the bar."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_UPDATES = 0.2  # of a bar
BAR_DELAY_S = 1.0  # quicker work shows no bar
BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
RELAY_VARIABLE = "CONVOY_PROGRESS"  # "relay": a process reports its progress as lines that begin with RELAY_PREFIX
RELAY_PREFIX = "\x1eprogress "


class Progress:
    """A progress report on stderr, or on another stream.

    with Progress("normalize") as progress:
        progress.begin(total=1797)
        progress.advance(64)

    In a terminal this is a tqdm bar with rate and remaining time. Elsewhere it prints lines such as
    "normalize: 1,200/1,797 pictures (67%)", the first line after a few seconds, so that quick work prints nothing.
    If RELAY_VARIABLE is set, it prints lines for the parent's `RelayedProgress`.

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
        self._is_relayed = stream is None and os.environ.get(RELAY_VARIABLE) == "relay"
        self._seconds_between_lines = SECONDS_BETWEEN_UPDATES if self._is_relayed else seconds_between_lines
        self._title, self._total, self._done = name, None, 0  # type: tuple[str, int | None, int]
        self._printed_at = time.monotonic()
        self._has_printed = False
        self._bar: Any = None

    def begin(self, total: int | None = None, step: str = "", unit: str | None = None, done: int = 0) -> None:
        """Start the work, or its next step.

        Args:
            total: number of units; None if it is not known.
            step: printed after the name.
            unit: what is counted in this step.
            done: number of units that were done before, for example by a process that was killed.
        """
        self.end()
        self._unit = unit or self.unit
        self._title = f"{self.name}: {step}" if step else self.name
        self._total, self._done, self._has_printed = total, done, False
        self._printed_at = time.monotonic()
        stream = self._stream or sys.stderr
        if self._is_relayed:
            self._print_line()
        elif stream.isatty():
            self._bar = _open_bar(self._title, self._unit, total, done, stream)

    def advance(self, num: int = 1) -> None:
        """Report that `num` more units are done."""
        self._done += num
        if self._bar is not None:
            self._bar.update(num)
        elif time.monotonic() - self._printed_at >= self._seconds_between_lines:
            self._print_line()

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        stream = self._stream or sys.stderr
        with keep_bars_below(stream):
            print(text, file=stream, flush=True)

    def end(self) -> None:
        """Finish the step; print the last number if the log has a line of this step."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._has_printed:
            self._print_line(is_last=True)
        self._has_printed, self._done = False, 0

    def _print_line(self, is_last: bool = False) -> None:
        text = self._format_relayed(is_last) if self._is_relayed else self._format_line()
        print(text, file=self._stream or sys.stderr, flush=True)
        self._printed_at, self._has_printed = time.monotonic(), True

    def _format_line(self) -> str:
        done = f"{self._done:,}/{self._total:,}" if self._total else f"{self._done:,}"
        share = f" ({100 * self._done // self._total}%)" if self._total else ""
        return f"{self._title}: {done} {self._unit}{share}"

    def _format_relayed(self, is_last: bool) -> str:
        values = {"title": self._title, "unit": self._unit, "total": self._total, "done": self._done}
        return RELAY_PREFIX + json.dumps({**values, "is_last": is_last})

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

    def begin(self, total: int | None = None, step: str = "", unit: str | None = None, done: int = 0) -> None:
        """Do nothing."""

    def advance(self, num: int = 1) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


class RelayedProgress:
    """The bar of a child process, drawn by its parent from the lines that the child prints.

    Args:
        streams: where to show it: a bar on each terminal, plain lines on the others.
    """

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams
        self._shown: list[Progress] = []
        self._step, self._done = "", 0

    def show(self, line: str) -> bool:
        """Show a line of the child; return False, and do nothing, if it does not report progress."""
        if not line.startswith(RELAY_PREFIX):
            return False
        values = json.loads(line.removeprefix(RELAY_PREFIX))
        step = f"{values['title']} {values['unit']} {values['total']}"
        if step != self._step or values["done"] < self._done:
            self.close()
            self._shown = [Progress(values["title"], unit=values["unit"], stream=each) for each in self._streams]
            for progress in self._shown:
                progress.begin(values["total"], done=values["done"])
            self._step, self._done = step, values["done"]
        for progress in self._shown:
            progress.advance(values["done"] - self._done)
        self._done = values["done"]
        if values["is_last"]:
            self.close()
        return True

    def close(self) -> None:
        """Remove the bar."""
        for progress in self._shown:
            progress.end()
        self._shown, self._step, self._done = [], "", 0


def _open_bar(title: str, unit: str, total: int | None, done: int, stream: TextIO) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=done, desc=title, unit=f" {unit}", file=stream, leave=False, dynamic_ncols=True,
        mininterval=SECONDS_BETWEEN_UPDATES, delay=BAR_DELAY_S, bar_format=BAR_FORMAT if total else None,
    )  # fmt: skip


@contextmanager
def keep_bars_below(stream: TextIO) -> Iterator[None]:
    """Take the bars off a terminal while something else is written to it."""
    module = sys.modules.get("tqdm")  # not imported: there is no bar
    if module is None:
        yield
        return
    with module.tqdm.external_write_mode(file=stream):
        yield
