"""Progress a person can see: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Reports how far a piece of work has come, on stderr unless told otherwise.

    with Progress("normalize") as progress:
        progress.begin(total=1797)
        progress.advance(64)

    In a terminal this is a tqdm bar; elsewhere lines such as "normalize: 1,200/1,797 pictures (67%)", the first
    one after a few seconds, so that quick work stays quiet.
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
        self._pause_s = seconds_between_lines
        self._what, self._total, self._done = name, None, 0  # type: tuple[str, int | None, int]
        self._said_at = time.monotonic()
        self._spoke = False
        self._bar: Any = None

    def begin(self, total: int | None = None, step: str = "", unit: str | None = None) -> None:
        """Start (the next step of) the work; `total` is the number of units, or None when nobody knows."""
        self.end()
        self._unit = unit or self.unit
        self._what = f"{self.name}: {step}" if step else self.name
        self._total, self._done, self._spoke = total, 0, False
        self._said_at = time.monotonic()
        stream = self._stream or sys.stderr
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                desc=self._what,
                unit=f" {self._unit}",
                file=stream,
                leave=False,
                mininterval=0.2,
                dynamic_ncols=True,
            )

    def advance(self, num: int = 1) -> None:
        """Say that `num` more units are done."""
        self._done += num
        if self._bar is not None:
            self._bar.update(num)
        elif time.monotonic() - self._said_at >= self._pause_s:
            self._say()

    def end(self) -> None:
        """Finish the step; a log that has heard of it hears the last number too."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._spoke:
            self._say()
        self._spoke, self._done = False, 0

    def _say(self) -> None:
        done = f"{self._done:,}/{self._total:,}" if self._total else f"{self._done:,}"
        share = f" ({100 * self._done // self._total}%)" if self._total else ""
        print(f"{self._what}: {done} {self._unit}{share}", file=self._stream or sys.stderr, flush=True)
        self._said_at, self._spoke = time.monotonic(), True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class SilentProgress(Progress):
    """Says nothing; what functions use when nobody listens."""

    def __init__(self) -> None:
        super().__init__("")

    def begin(self, total: int | None = None, step: str = "", unit: str | None = None) -> None: ...

    def advance(self, num: int = 1) -> None: ...

    def end(self) -> None: ...
