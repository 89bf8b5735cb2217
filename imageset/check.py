"""Look at a source as the pipeline would, and write nothing: what is in it, and what would be refused and why."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.executors.base import IMAGE_TIMEOUT_S, BaseExecutor
from imageset.executors.factory import open_executor
from imageset.executors.stream import map_stream
from imageset.labels import count_labels
from imageset.normalize.rows import fill_group_and_time, reject_undated
from imageset.normalize.tasks import measure_image
from imageset.normalize.worker_modules import WORKER_MODULES
from imageset.rejections import Rejected, Rejection, count_reasons, escape_control_characters, num_harmful
from imageset.sources.base import Source
from imageset.sources.factory import open_source
from imageset.splits.duplicates import find_duplicates
from imageset.splits.groups import Groups, add_ages, build_groups
from imageset.splits.leakage import find_leaks, resolve_duplicates, resolve_leaks
from imageset.splits.placement import check_splits, iter_row_splits, warn_small_classes
from imageset.splits.split_rule import SplitRule
from imageset.store import format
from imageset.store.format import SPLITS
from imageset.utils.arrow import ROWS_AT_ONCE, iter_slices, take_rows, write_arrow
from imageset.utils.memory import trim_memory
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.tempdirs import ReclaimedTempDir
from imageset.utils.text import format_count

HASH_SIZE_PX = 32  # what perceptual hashes are made of
_DROPPED_CODE = 255  # the code of a picture that is in no split
NUM_EXAMPLES = 5  # of each reason, in the printed report
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image_id", "uri", "label", "group", "split", "reason", "detail")]
    + [("time", pa.timestamp("us"))]
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
    splits: dict[str, int]  # that the source itself makes
    refused: list[Rejection]
    passed_over: dict[str, int]
    short_sides_px: tuple[int, float, int] | None  # smallest, median, largest
    max_reject_fraction: float
    near_duplicates: NearDuplicateGroups | None = None  # uris of pictures that look alike
    warnings: list[str] = field(default_factory=list)  # e.g. leaks between the source's own splits
    run_splits: dict[str, int] = field(default_factory=dict)  # what `convoy run` would make of it
    split_problem: str | None = None  # why it could not

    @property
    def stop_reason(self) -> str | None:
        """Why `convoy run` would stop at this source, or None."""
        harmful = num_harmful(self.refused)
        if self.problem:
            return self.problem
        if harmful > self.max_reject_fraction * self.num_pictures:
            return (
                f"{harmful:,} of {format_count(self.num_pictures, 'picture is', 'pictures are')} refused, "
                f"more than max_reject_fraction {self.max_reject_fraction:g}"
            )
        return self.split_problem

    def to_dict(self) -> dict[str, Any]:
        """Everything that was found, for JSON."""
        counts = {"reasons": count_reasons(self.refused), "stops": self.stop_reason}
        return (
            {one.name: getattr(self, one.name) for one in fields(self)}
            | counts
            | {
                "refused": [asdict(one) for one in self.refused],
                "near_duplicates": list(self.near_duplicates or ()),
            }
        )

    def to_text(self) -> str:
        """The report for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.source
        yield f"sound: {self.num_sound:,} of {format_count(self.num_pictures, 'picture')}"
        if self.short_sides_px:
            low, median, high = self.short_sides_px
            yield f"short side: {low:,} to {high:,} px, half of them below {median:,.0f}"
        if self.splits:
            yield "splits: " + ", ".join(f"{split} {num:,}" for split, num in self.splits.items())
        yield "classes: " + (
            ", ".join(f"{escape_control_characters(label)} {num:,}" for label, num in self.classes.items())
            or "none"
        )
        for reason, num in count_reasons(self.refused).items():
            yield f"{reason}: {num:,}"
            same = [one for one in self.refused if one.reason == reason]
            yield from (
                f"  {escape_control_characters(one.uri)}  ({escape_control_characters(one.detail)})"
                for one in same[:NUM_EXAMPLES]
            )
            if num > NUM_EXAMPLES:
                yield f"  and {num - NUM_EXAMPLES:,} more"
        if self.near_duplicates:
            num = self.near_duplicates.num_pictures
            yield f"near duplicates: {num:,} in {format_count(len(self.near_duplicates), 'group')}"
            for group in islice(self.near_duplicates, NUM_EXAMPLES):
                yield "  " + ", ".join(map(escape_control_characters, group[:NUM_EXAMPLES]))
        yield from (f"warning: {warning}" for warning in self.warnings)
        if self.stop_reason:
            yield f"convoy run would stop: {self.stop_reason}"
        else:
            places = ", ".join(f"{split} {num:,}" for split, num in self.run_splits.items())
            yield "convoy run would take it" + (f": {places}" if places else "")


def check_source(
    source: str | os.PathLike[str] | Source,
    *,
    max_pixels: int = 178_956_970,
    max_reject_fraction: float = 0.05,
    near_duplicate_bits: int | None = 4,
    on_leak: str = "warn",
    min_test_per_class: int = 0,
    rule: SplitRule | None = None,
    workers: int | None = None,
    timeout_s: float = IMAGE_TIMEOUT_S,
    progress: Progress | None = None,
    executor: str | None = None,
) -> CheckReport:
    """Read and decode every picture of a source and report what was found; nothing is written.

    With `rule` the report says how a first `convoy run` would divide the pictures.

    Raises:
        UserError: there is no such source.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source, require_classes=False, progress=progress)
    spec = DecodeSpec(HASH_SIZE_PX, 3, "stretch", "bilinear", max_pixels)
    with ReclaimedTempDir() as folder, _ThumbnailShard(Path(folder), spec) as thumbnails:
        with open_executor(executor, workers, WORKER_MODULES) as crew:
            rows = _measure_all(source, thumbnails, crew, timeout_s, progress or SilentProgress())
            records = write_arrow(fill_group_and_time(rows, rule) if rule else rows, _SCHEMA, folder)
        thumbnails.close()
        trim_memory()
        judged = _separate_rejected(records, rule, folder)
        ties = build_groups(judged[0], judged[0]["phash"].to_numpy(), near_duplicate_bits, Path(folder))
        report = _build_report(source, records, *judged, ties, max_reject_fraction)
        _simulate_run(report, judged[0], ties, rule, on_leak, min_test_per_class, source.multi_label)
        return report


def _measure_all(
    source: Source,
    thumbnails: _ThumbnailShard,
    crew: BaseExecutor,
    timeout_s: float,
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    """The rows of _SCHEMA, of every picture in the source's order."""
    progress.begin(total=len(source))
    work, rows = partial(measure_image, spec=thumbnails.spec), deque[dict[str, Any]]()
    for row, seen in map_stream(_iter_readable(source, rows), work, timeout_s=timeout_s, executor=crew):
        progress.advance()
        if isinstance(seen, Rejected):
            row["reason"], row["detail"] = seen.reason, seen.detail
        else:
            width, height, row["phash"], pixels = seen
            row["side"], row["row"] = min(width, height), thumbnails.add(pixels)
        row["seen"] = True
        if len(rows) >= ROWS_AT_ONCE:
            yield _build_batch(_pop_measured(rows))
    progress.end()
    yield _build_batch(list(rows))


def _pop_measured(rows: deque[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the rows out that no other is waited for."""
    seen = []
    while rows and (rows[0]["reason"] or rows[0].get("seen")):
        seen.append(rows.popleft())
    return seen


def _build_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, _SCHEMA)


class _ThumbnailShard:
    """Small copies of the pictures in a temporary shard of pixels, to compare look-alikes by."""

    def __init__(self, folder: Path, spec: DecodeSpec) -> None:
        self.spec = spec
        self._file = (folder / format.name_pixel_shard(0)).open("wb")
        self._file.write(bytes(format.NPY_HEADER_BYTES))
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
            self._file.write(format.build_npy_header((self._num, *self.spec.shape)))
            self._file.close()

    def __enter__(self) -> _ThumbnailShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _iter_readable(source: Source, rows: deque[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the pictures that can be read; every picture becomes a row."""
    for picture in source:
        row: dict[str, Any] = {
            "uri": picture.uri,
            "label": picture.label,
            "split": picture.split,
            "group": picture.group,
            "time": picture.time,
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


def _separate_rejected(records: pa.Table, rule: SplitRule | None, folder: str) -> tuple[pa.Table, list[Rejection]]:
    """(the pictures that are kept, what is refused)."""
    good = records["reason"].is_null().to_numpy()
    sound = add_ages(write_arrow(iter_slices(records, np.flatnonzero(good)), _SCHEMA, folder), [0])
    positions, refused = find_duplicates(sound)
    if rule is not None and rule.by == "time":
        positions = reject_undated(sound, positions, refused)
    kept = write_arrow(iter_slices(sound, positions), sound.schema, folder)
    bad = take_rows(records.select(["uri", "image_id", "reason", "detail"]), np.flatnonzero(~good))
    return kept, refused + [Rejection(**row) for row in bad.to_pylist()]


def _build_report(
    source: Source,
    records: pa.Table,
    kept: pa.Table,
    refused: list[Rejection],
    ties: Groups,
    max_reject_fraction: float,
) -> CheckReport:
    splits: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for batch in kept.select(["split", "label"]).to_batches():
        splits.update(split for split in batch["split"].to_pylist() if split)
        classes.update(count_labels(batch["label"].to_pylist(), source.multi_label))
    sides = records["side"].drop_null().to_numpy()
    return CheckReport(
        source=source.describe(),
        problem=source.problem,
        num_pictures=len(records),
        num_sound=len(kept),
        classes=dict(sorted(classes.items())),
        splits=dict(sorted(splits.items())),
        refused=sorted(refused, key=lambda one: (one.uri, one.reason)),
        passed_over=dict(sorted(source.passed_over.items())),
        short_sides_px=(int(sides.min()), float(np.median(sides)), int(sides.max())) if len(sides) else None,
        max_reject_fraction=max_reject_fraction,
        near_duplicates=NearDuplicateGroups(kept, ties),
    )


def _simulate_run(
    report: CheckReport,
    kept: pa.Table,
    ties: Groups,
    rule: SplitRule | None,
    on_leak: str,
    min_test: int,
    multi_label: bool,
) -> None:
    """Add what a first `convoy run` would make of the pictures: leaks, splits, and why it would stop."""
    leaks = find_leaks(kept["split"], ties)
    report.warnings += resolve_duplicates(report.refused, "warn") + resolve_leaks(kept, leaks, "warn")[2]
    if rule is None or not len(kept):
        return
    try:
        resolve_duplicates(report.refused, on_leak)
        placed = _assign_split_codes(kept, rule, ties)
        placed[resolve_leaks(kept, leaks, on_leak)[0]] = _DROPPED_CODE
        labels = kept.select(["label"])
        left = labels.filter(pa.array(placed != _DROPPED_CODE)) if (placed == _DROPPED_CODE).any() else labels
        check_splits(left, {split for code, split in enumerate(SPLITS) if (placed == code).any()})
    except UserError as error:
        report.split_problem = str(error)
        return
    counts = {split: Counter(dict.fromkeys(report.classes, 0)) for split in SPLITS}
    report.run_splits = dict.fromkeys(SPLITS, 0)
    start = 0
    for batch in labels.to_batches():
        for code, split in enumerate(SPLITS):
            here = batch["label"].filter(pa.array(placed[start : start + len(batch)] == code))
            report.run_splits[split] += len(here)
            counts[split].update(count_labels(here.to_pylist(), multi_label))
        start += len(batch)
    report.warnings += warn_small_classes(counts, min_test)


def _assign_split_codes(kept: pa.Table, rule: SplitRule, ties: Groups) -> np.ndarray:
    """uint8 (N,): the number in SPLITS of each picture's split."""
    codes = {split: code for code, split in enumerate(SPLITS)}
    parts = [np.array([codes[split] for split in some], np.uint8) for some in iter_row_splits(kept, rule, ties)]
    return np.concatenate([np.empty(0, np.uint8), *parts])


class NearDuplicateGroups:
    """The uris of pictures that look alike, group by group; they lie on disk until they are asked for.

    Attributes:
        num_pictures: how many are in all groups.
    """

    def __init__(self, kept: pa.Table, ties: Groups) -> None:
        near = np.flatnonzero(ties.is_near_duplicate).astype(np.int32)
        leaders = ties.leaders[near]
        order = np.argsort(leaders, kind="stable")
        self._uris, self._numbers, self._leaders = kept.select(["uri"]), near[order], leaders[order]
        self.num_pictures = len(near)

    def __len__(self) -> int:
        return int(np.count_nonzero(np.diff(self._leaders, prepend=-1)))

    def __iter__(self) -> Iterator[list[str]]:
        for _, same in groupby(self._pairs(), key=itemgetter(0)):
            yield [uri for _, uri in same]

    def _pairs(self) -> Iterator[tuple[int, str]]:
        for start in range(0, len(self._numbers), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            uris = take_rows(self._uris, self._numbers[some])["uri"].to_pylist()
            yield from zip(self._leaders[some].tolist(), uris, strict=True)
