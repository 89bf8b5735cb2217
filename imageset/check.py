"""Look at a source as the pipeline would, and write nothing: what is in it, and what would be refused and why."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from imageset import store
from imageset.decode import DecodeSpec, Rejected
from imageset.executors import open_executor
from imageset.judge import Refusal, judge, num_harmful, reason_counts
from imageset.labels import count_names
from imageset.pixels import look
from imageset.pool import TIMEOUT_S, Crew, map_stream
from imageset.progress import Progress, Silent
from imageset.quality import plain
from imageset.sources import Source, open_source, passed_over_text
from imageset.ties import Ties, find_leaks, settle_leaks, tie

LOOK_SIZE_PX = 32  # what perceptual hashes are made of
EXAMPLES = 5  # of each reason, in the printed report
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image_id", "uri", "label", "group", "split", "reason", "detail")]
    + [("phash", pa.uint64()), ("side", pa.int32()), ("row", pa.int32()), ("shard", pa.int32())]
)


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
    near_duplicates: list[list[str]] = field(default_factory=list)  # uris of pictures that look alike
    warnings: list[str] = field(default_factory=list)  # e.g. leaks between the source's own splits

    @property
    def stops(self) -> str | None:
        """Why `convoy run` would stop at this source, or None."""
        harmful = num_harmful(self.refused)
        if self.problem:
            return self.problem
        if harmful > self.max_reject_fraction * self.num_pictures:
            return (
                f"{harmful:,} of {self.num_pictures:,} pictures are refused, "
                f"more than max_reject_fraction {self.max_reject_fraction:g}"
            )
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
        if self.near_duplicates:
            num = sum(map(len, self.near_duplicates))
            yield f"near duplicates: {num:,} in {len(self.near_duplicates):,} groups"
            for group in self.near_duplicates[:EXAMPLES]:
                yield "  " + ", ".join(map(plain, group[:EXAMPLES]))
        yield from (f"warning: {warning}" for warning in self.warnings)
        yield f"convoy run would stop: {self.stops}" if self.stops else "convoy run would take it"


def check_source(
    source: str | os.PathLike[str] | Source,
    *,
    max_pixels: int = 178_956_970,
    max_reject_fraction: float = 0.05,
    near_duplicate_bits: int | None = 4,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress | None = None,
    executor: str | None = None,
) -> CheckReport:
    """Read and decode every picture of a source and report what was found; nothing is written.

    Raises:
        UserError: there is no such source.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source, to_learn=False)
    spec = DecodeSpec(LOOK_SIZE_PX, 3, "stretch", "bilinear", max_pixels)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, _Thumbnails(Path(folder), spec) as thumbnails:
        with open_executor(executor, workers) as crew:
            _look_at_all(source, rows, thumbnails, crew, timeout_s, progress or Silent())
        thumbnails.close()
        return _report(
            source, pa.Table.from_pylist(rows, _SCHEMA), Path(folder), near_duplicate_bits, max_reject_fraction
        )


def _look_at_all(
    source: Source,
    rows: list[dict[str, Any]],
    thumbnails: _Thumbnails,
    crew: Crew,
    timeout_s: float,
    progress: Progress,
) -> None:
    progress.begin(total=len(source))
    work = partial(look, spec=thumbnails.spec)
    for row, seen in map_stream(_readable(source, rows), work, timeout_s=timeout_s, crew=crew):
        progress.advance()
        if isinstance(seen, Rejected):
            row["reason"], row["detail"] = seen.reason, seen.detail
        else:
            width, height, row["phash"], pixels = seen
            row["side"], row["row"] = min(width, height), thumbnails.add(pixels)
    progress.end()


class _Thumbnails:
    """Small copies of the pictures in a temporary shard of pixels, to compare look-alikes by."""

    def __init__(self, folder: Path, spec: DecodeSpec) -> None:
        self.spec = spec
        self._file = (folder / store.shard_name(0)).open("wb")
        self._file.write(bytes(store.HEADER_BYTES))
        self._num = 0

    def add(self, pixels: np.ndarray) -> int:
        """Append one; return its number."""
        self._file.write(pixels.tobytes())
        self._num += 1
        return self._num - 1

    def close(self) -> None:
        """Write the header."""
        if not self._file.closed:
            self._file.seek(0)
            self._file.write(store.npy_header((self._num, *self.spec.shape)))
            self._file.close()

    def __enter__(self) -> _Thumbnails:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _readable(source: Source, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the pictures that can be read; every picture becomes a row."""
    for picture in source:
        row: dict[str, Any] = {
            "uri": picture.uri,
            "label": picture.label,
            "split": picture.split,
            "group": picture.group,
            "shard": 0,
            "image_id": None,
            "reason": None,
            "detail": None,
        }
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


def _report(
    source: Source, records: pa.Table, folder: Path, near_duplicate_bits: int | None, max_reject_fraction: float
) -> CheckReport:
    sound = records.filter(records["reason"].is_null())
    positions, refused = judge(sound)
    refused += [
        Refusal(**row)
        for row in records.filter(records["reason"].is_valid())
        .select(["uri", "image_id", "reason", "detail"])
        .to_pylist()
    ]
    kept = sound.take(pa.array(positions))
    ties = tie(kept, kept["phash"].to_numpy(), near_duplicate_bits, folder)
    leaks = find_leaks(kept["split"].to_pylist(), ties)
    splits = Counter(split for split in kept["split"].to_pylist() if split)
    sides = sound["side"].to_numpy()
    return CheckReport(
        source=source.describe(),
        problem=source.problem,
        num_pictures=len(records),
        num_sound=len(kept),
        classes=dict(sorted(count_names(kept["label"].to_pylist(), source.multi_label).items())),
        splits=dict(sorted(splits.items())),
        refused=sorted(refused, key=lambda one: (one.uri, one.reason)),
        passed_over=dict(sorted(source.passed_over.items())),
        short_sides_px=(int(sides.min()), float(np.median(sides)), int(sides.max())) if len(sides) else None,
        max_reject_fraction=max_reject_fraction,
        near_duplicates=_near_groups(kept["uri"].to_pylist(), ties),
        warnings=settle_leaks(kept, leaks, "warn")[2],
    )


def _near_groups(uris: list[str], ties: Ties) -> list[list[str]]:
    together: dict[int, list[str]] = {}
    for number, (mine, theirs) in enumerate(zip(ties.groups, ties.source_groups, strict=True)):
        if mine is not None and theirs is None:
            together.setdefault(int(ties.leaders[number]), []).append(uris[number])
    return list(together.values())
