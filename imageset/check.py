"""Look at a source as the pipeline would, and write nothing: what is in it, and what would be refused and why."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from imageset.decode import DecodeSpec, Rejected
from imageset.judge import Refusal, judge, num_harmful, reason_counts
from imageset.pixels import look
from imageset.pool import TIMEOUT_S, map_stream
from imageset.progress import Progress, Silent
from imageset.quality import plain
from imageset.sources import Source, open_source, passed_over_text

LOOK_SIZE_PX = 32  # what perceptual hashes are made of
EXAMPLES = 5  # of each reason, in the printed report
_SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "uri", "label", "split", "reason", "detail")])


@dataclass(slots=True)
class CheckReport:
    """What a check found; every picture of the source is either sound or one of `refused`."""

    source: str
    problem: str | None
    num_pictures: int
    num_sound: int
    classes: dict[str, int]  # sound pictures of each class
    splits: dict[str, int]
    refused: list[Refusal]
    passed_over: dict[str, int]
    short_sides_px: tuple[int, float, int] | None  # smallest, median, largest
    max_reject_fraction: float
    warnings: list[str] = field(default_factory=list)

    @property
    def stops(self) -> str | None:
        """Why `convoy run` would stop at this source, or None."""
        harmful = num_harmful(self.refused)
        if self.problem:
            return self.problem
        if harmful > self.max_reject_fraction * self.num_pictures:
            return (f"{harmful:,} of {self.num_pictures:,} pictures are refused, "
                    f"more than max_reject_fraction {self.max_reject_fraction:g}")
        return None

    def text(self) -> str:
        """The report for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.source
        yield f"sound: {self.num_sound:,} of {self.num_pictures:,} pictures{passed_over_text(self.passed_over)}"
        if self.short_sides_px:
            low, median, high = self.short_sides_px
            yield f"short side: {low:,} to {high:,} px, half of them below {median:,.0f}"
        if self.splits:
            yield "splits: " + ", ".join(f"{split} {num:,}" for split, num in self.splits.items())
        yield "classes: " + ", ".join(f"{plain(label)} {num:,}" for label, num in self.classes.items())
        for reason, num in reason_counts(self.refused).items():
            yield f"{reason}: {num:,}"
            same = [one for one in self.refused if one.reason == reason]
            yield from (f"  {plain(one.uri)}  ({plain(one.detail)})" for one in same[:EXAMPLES])
            if num > EXAMPLES:
                yield f"  and {num - EXAMPLES:,} more"
        yield from (f"warning: {warning}" for warning in self.warnings)
        yield f"convoy run would stop: {self.stops}" if self.stops else "convoy run would take it"


def check_source(source: str | os.PathLike[str] | Source, *, max_pixels: int = 178_956_970,
                 max_reject_fraction: float = 0.05, workers: int | None = None, timeout_s: float = TIMEOUT_S,
                 progress: Progress | None = None) -> CheckReport:
    """Read and decode every picture of a source and report what was found; nothing is written.

    Raises:
        UserError: there is no such source.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source, to_learn=False)
    spec = DecodeSpec(LOOK_SIZE_PX, 3, "stretch", "bilinear", max_pixels)
    rows: list[dict[str, Any]] = []
    sides: list[int] = []
    progress = progress or Silent()
    progress.begin(total=len(source))
    for row, seen in map_stream(_readable(source, rows), partial(look, spec=spec), workers=workers,
                                timeout_s=timeout_s):
        progress.advance()
        if isinstance(seen, Rejected):
            row["reason"], row["detail"] = seen.reason, seen.detail
        else:
            width, height, _ = seen
            sides.append(min(width, height))
    progress.end()
    return _report(source, pa.Table.from_pylist(rows, _SCHEMA), sides, max_reject_fraction)


def _readable(source: Source, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the pictures that can be read; every picture becomes a row."""
    for picture in source:
        row: dict[str, Any] = {"uri": picture.uri, "label": picture.label, "split": picture.split,
                               "image_id": None, "reason": None, "detail": None}
        rows.append(row)
        try:
            data = picture.read()
        except Rejected as rejected:
            row["reason"], row["detail"] = rejected.reason, rejected.detail
        except FileNotFoundError:
            row["reason"], row["detail"] = "unreadable", "vanished while it was looked for"
        else:
            row["image_id"] = hashlib.sha256(data).hexdigest()
            yield row, data


def _report(source: Source, records: pa.Table, sides: list[int], max_reject_fraction: float) -> CheckReport:
    sound = records.filter(records["reason"].is_null())
    positions, refused = judge(sound)
    refused += [Refusal(**row) for row in records.filter(records["reason"].is_valid())
                .select(["uri", "image_id", "reason", "detail"]).to_pylist()]
    kept = sound.take(pa.array(positions))
    splits = Counter(split for split in kept["split"].to_pylist() if split)
    return CheckReport(
        source=source.describe(), problem=source.problem, num_pictures=len(records), num_sound=len(kept),
        classes=dict(sorted(Counter(kept["label"].to_pylist()).items())), splits=dict(sorted(splits.items())),
        refused=sorted(refused, key=lambda one: (one.uri, one.reason)),
        passed_over=dict(sorted(source.passed_over.items())),
        short_sides_px=(min(sides), float(np.median(sides)), max(sides)) if sides else None,
        max_reject_fraction=max_reject_fraction)
