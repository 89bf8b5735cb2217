"""The check of a source: what is in it, which images would be rejected and why. Nothing is written."""

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

from imageset.class_names import describe_similar_names
from imageset.decoding.bit_depth import Peak, choose_ranges, describe_ranges, get_range
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.executors.base import IMAGE_TIMEOUT_S, BaseExecutor
from imageset.executors.factory import open_executor
from imageset.executors.stream import map_stream
from imageset.labels import count_labels
from imageset.normalize.contrast import warn_low_contrast, warn_outliers
from imageset.normalize.rows import fill_group_and_time, reject_undated
from imageset.normalize.shard_writer import choose_auto_size, select_auto_sample
from imageset.normalize.tasks import measure_image
from imageset.normalize.worker_modules import WORKER_MODULES
from imageset.rejections import Rejected, Rejection, count_harmful, count_reasons, escape_control_characters
from imageset.sources.base import Source
from imageset.sources.factory import open_source
from imageset.splits.duplicates import find_duplicates
from imageset.splits.grouping import (
    GroupedImages,
    add_names,
    describe_sequences,
    group_images,
    warn_divided_images,
)
from imageset.splits.groups import Groups, add_ages
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

HASH_SIZE_PX = 32  # of the copies that perceptual hashes are computed from
_DROPPED_CODE = 255  # the split code of an image that is in no split
NUM_EXAMPLES = 5  # of each reason, in the printed report
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("image_id", "uri", "label", "group", "split", "reason", "detail")]
    + [("time", pa.timestamp("us")), ("grey", pa.bool_())]
    + [("phash", pa.uint64()), ("side", pa.int32()), ("row", pa.int32()), ("shard", pa.int32())]
    + [("sum", pa.int64()), ("square_sum", pa.int64()), ("peak", pa.float32()), ("float_peak", pa.bool_())]
)


@dataclass(slots=True)
class CheckReport:
    """The result of a check; every image of the source is either sound or one of `refused`.

    Attributes:
        source: one line that describes the source.
        problem: why nothing can be learned from the source, or None.
        num_pictures: number of images in the source.
        num_sound: number of images that are not rejected.
        classes: number of sound images of each class.
        splits: number of sound images of each split that the source itself defines.
        refused: the rejected images.
        passed_over: number of files that are not images, by cause.
        short_sides_px: smallest, median and largest short side; None if no image could be decoded.
        max_reject_fraction: the largest fraction of rejected images that `convoy run` accepts.
        near_duplicates: uris of images that look alike.
        ranges: the ranges of values with which images of more than 8 bits would be read.
        warnings: for example leaks between the source's own splits.
        run_splits: number of images of each split after a first `convoy run`.
        split_problem: why `convoy run` could not split the images, or None.
        project_problem: why `convoy run` would not take this source in this project, or None.
        test_power: the gains that the test pictures could show, or None.
        size_px: the side that `size_px: auto` stands for; None if no image is sound.
        channels: the number that `channels: auto` stands for; None if no image is sound.
        networks: the networks that `convoy run` would try.
        sequences: a line about sequences that `convoy run` would keep together, or "".
    """

    source: str
    problem: str | None
    num_pictures: int
    num_sound: int
    classes: dict[str, int]
    splits: dict[str, int]
    refused: list[Rejection]
    passed_over: dict[str, int]
    short_sides_px: tuple[int, float, int] | None
    max_reject_fraction: float
    near_duplicates: NearDuplicateGroups | None = None
    ranges: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    run_splits: dict[str, int] = field(default_factory=dict)
    split_problem: str | None = None
    project_problem: str | None = None
    test_power: str | None = None
    size_px: int | None = None
    channels: int | None = None
    networks: list[str] = field(default_factory=list)
    sequences: str = ""

    @property
    def stop_reason(self) -> str | None:
        """The reason why `convoy run` would stop at this source, or None."""
        harmful = count_harmful(self.refused)
        if self.problem:
            return self.problem
        if harmful > self.max_reject_fraction * self.num_pictures:
            return (
                f"{harmful:,} of {format_count(self.num_pictures, 'picture is', 'pictures are')} refused, "
                f"more than max_reject_fraction {self.max_reject_fraction:g}"
            )
        return self.split_problem or self.project_problem

    def to_dict(self) -> dict[str, Any]:
        """Return the whole report as values for JSON: the attributes, and two more.

        reasons: number of the refused images by reason. stops: why `convoy run` would refuse the source, or null.
        """
        counts = {"reasons": count_reasons(self.refused), "stops": self.stop_reason}
        return (
            {item.name: getattr(self, item.name) for item in fields(self)}
            | counts
            | {
                "refused": [asdict(rejection) for rejection in self.refused],
                "near_duplicates": list(self.near_duplicates or ()),
            }
        )

    def to_text(self) -> str:
        """Return the report as text for the user."""
        return "\n".join(self._iter_lines())

    def __str__(self) -> str:
        return self.to_text()

    def _iter_lines(self) -> Iterator[str]:
        yield self.source
        yield f"sound: {self.num_sound:,} of {format_count(self.num_pictures, 'picture')}"
        if self.short_sides_px:
            low, median, high = self.short_sides_px
            yield f"short side: {low:,} to {high:,} px, half of them below {median:,.0f}"
        yield from self.ranges
        if self.splits:
            yield "splits: " + ", ".join(f"{split} {num:,}" for split, num in self.splits.items())
        yield "classes: " + (
            ", ".join(f"{escape_control_characters(label)} {num:,}" for label, num in self.classes.items())
            or "none"
        )
        for reason, num in count_reasons(self.refused).items():
            yield f"{reason}: {num:,}"
            rejections = [rejection for rejection in self.refused if rejection.reason == reason]
            yield from (
                f"  {escape_control_characters(rejection.uri)}  ({escape_control_characters(rejection.detail)})"
                for rejection in rejections[:NUM_EXAMPLES]
            )
            if num > NUM_EXAMPLES:
                yield f"  and {num - NUM_EXAMPLES:,} more"
        if self.near_duplicates:
            num = self.near_duplicates.num_images
            yield f"near duplicates: {num:,} in {format_count(len(self.near_duplicates), 'group')}"
            for group in islice(self.near_duplicates, NUM_EXAMPLES):
                yield "  " + ", ".join(map(escape_control_characters, group[:NUM_EXAMPLES]))
        if self.sequences:
            yield self.sequences
        yield from (f"warning: {warning}" for warning in self.warnings)
        if self.stop_reason:
            yield f"convoy run would stop: {self.stop_reason}"
        else:
            splits = ", ".join(f"{split} {num:,}" for split, num in self.run_splits.items())
            yield "convoy run would accept it" + (f": {splits}" if splits else "")
            yield from self._iter_choices()

    def _iter_choices(self) -> Iterator[str]:
        if self.test_power:
            yield self.test_power
        if self.size_px and self.channels:
            colours = "grey" if self.channels == 1 else "colour"
            yield f"pictures would be {self.size_px} x {self.size_px} px, {colours}"
        if self.networks:
            tried = "; the better one on validation pictures" if len(self.networks) > 1 else ""
            yield f"network would be {' or '.join(self.networks)}{tried}"


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
    """Read and decode every image of a source and report the result; nothing is written.

    Args:
        source: an open source, or a path, URL or name to open.
        max_pixels: larger images are rejected.
        max_reject_fraction: the largest fraction of rejected images that `convoy run` accepts.
        near_duplicate_bits: largest Hamming distance of the perceptual hashes of near duplicates; None: no search.
        on_leak: what `convoy run` does about images that are in two splits of the source.
        min_test_per_class: classes with fewer test images cause a warning.
        rule: if given, the report says how a first `convoy run` would split the images.
        workers: number of processes; None: one per processor.
        timeout_s: longest time for the decoding of one image.
        progress: reports the number of images read.
        executor: name of the executor that decodes images; None: the environment decides.

    Raises:
        UserError: the source does not exist.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_source(source, require_classes=False, progress=progress)
    spec = _build_hash_spec(max_pixels)
    with ReclaimedTempDir() as folder, _ThumbnailShard(Path(folder), spec) as thumbnails:
        with open_executor(executor, workers, WORKER_MODULES) as process_executor:
            rows = _measure_all(source, thumbnails, process_executor, timeout_s, progress or SilentProgress())
            records = write_arrow(fill_group_and_time(rows, rule) if rule else rows, _SCHEMA, folder)
        thumbnails.close()
        trim_memory()
        kept, rejections, history = _separate_rejected(records, rule, folder, source.kind)
        phashes, multi_label = kept["phash"].to_numpy(), source.multi_label
        images = group_images(kept, history, phashes, rule, near_duplicate_bits, multi_label, Path(folder))
        report = _build_report(source, records, kept, rejections, images.groups, max_reject_fraction)
        report.sequences = describe_sequences(images.sequences, rule)
        codes = _simulate_run(report, images, rule, on_leak, min_test_per_class, multi_label)
        if codes is not None:
            report.warnings += warn_divided_images(
                images.rows, images.sequences, phashes, codes, rule, near_duplicate_bits
            )
        return report


def _build_hash_spec(max_pixels: int) -> DecodeSpec:
    return DecodeSpec(HASH_SIZE_PX, 3, "stretch", "bilinear", max_pixels)


def _measure_all(
    source: Source,
    thumbnails: _ThumbnailShard,
    executor: BaseExecutor,
    timeout_s: float,
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of _SCHEMA of every image, in the source's order."""
    progress.begin(total=len(source))
    measure, rows = partial(measure_image, spec=thumbnails.spec), deque[dict[str, Any]]()
    for row, result in map_stream(_iter_readable(source, rows), measure, timeout_s=timeout_s, executor=executor):
        progress.advance()
        if isinstance(result, Rejected):
            row["reason"], row["detail"] = result.reason, result.detail
        else:
            header, row["phash"], pixels, peak = result
            row["sum"], row["square_sum"] = int(pixels.sum()), int(np.square(pixels, dtype=np.uint32).sum())
            if peak:
                row["peak"], row["float_peak"] = peak
            row["side"], row["grey"] = min(header.width, header.height), header.is_grey
            row["row"] = thumbnails.add(pixels)
        row["measured"] = True
        if len(rows) >= ROWS_AT_ONCE:
            yield _build_batch(_pop_measured(rows))
    progress.end()
    yield _build_batch(list(rows))


def _pop_measured(rows: deque[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove and return the rows from the front that are complete."""
    measured = []
    while rows and (rows[0]["reason"] or rows[0].get("measured")):
        measured.append(rows.popleft())
    return measured


def _build_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, _SCHEMA)


class _ThumbnailShard:
    """A temporary pixel shard of small copies of the images, which near duplicates are compared by."""

    def __init__(self, folder: Path, spec: DecodeSpec) -> None:
        self.spec = spec
        self._file = (folder / format.name_pixel_shard(0)).open("wb")
        self._file.write(bytes(format.NPY_HEADER_BYTES))
        self._num = 0

    def add(self, pixels: np.ndarray) -> int:
        """Append pixels (32, 32, 3) uint8; return their row in the shard."""
        self._file.write(pixels.tobytes())
        self._num += 1
        return self._num - 1

    def close(self) -> None:
        """Write the header and close the file."""
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
    """Yield the images that can be read with their rows; append the row of every image to `rows`."""
    for image in source:
        row: dict[str, Any] = {
            "uri": image.uri,
            "label": image.label,
            "split": image.split,
            "group": image.group,
            "time": image.time,
            "shard": 0,
            "image_id": None,
            "reason": None,
            "detail": None,
        }
        rows.append(row)
        try:
            data = image.read()
        except Rejected as rejected:
            row["reason"], row["detail"] = rejected.reason, rejected.detail
        except FileNotFoundError:
            row["reason"], row["detail"] = "unreadable", "disappeared before it was read"
        else:
            row["image_id"] = hashlib.sha256(data).hexdigest()
            yield row, data


def _separate_rejected(
    records: pa.Table, rule: SplitRule | None, folder: str, kind: str
) -> tuple[pa.Table, list[Rejection], pa.Table | None]:
    """Return (rows of the images that are kept, rejections, the history of `add_names`)."""
    is_readable = records["reason"].is_null().to_numpy()
    readable = add_ages(write_arrow(iter_slices(records, np.flatnonzero(is_readable)), _SCHEMA, folder), [0])
    readable = readable.append_column("absent", pa.array(np.zeros(len(readable), bool)))
    readable, history = add_names(readable, rule, folder)
    positions, rejections = find_duplicates(readable, kind)
    if rule is not None and rule.by == "time":
        positions = reject_undated(readable, positions, rejections)
    kept = write_arrow(iter_slices(readable, positions), readable.schema, folder)
    unreadable = take_rows(records.select(["uri", "image_id", "reason", "detail"]), np.flatnonzero(~is_readable))
    return kept, rejections + [Rejection(**row) for row in unreadable.to_pylist()], history


def _build_report(
    source: Source,
    records: pa.Table,
    kept: pa.Table,
    rejections: list[Rejection],
    groups: Groups,
    max_reject_fraction: float,
) -> CheckReport:
    splits: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for batch in kept.select(["split", "label"]).to_batches():
        splits.update(split for split in batch["split"].to_pylist() if split)
        classes.update(count_labels(batch["label"].to_pylist(), source.multi_label))
    sides = records["side"].drop_null().to_numpy()
    ranges, contrast_warnings = _check_ranges(kept)
    sample = select_auto_sample(kept["image_id"])
    return CheckReport(
        source=source.describe(),
        problem=source.problem,
        num_pictures=len(records),
        num_sound=len(kept),
        classes=dict(sorted(classes.items())),
        splits=dict(sorted(splits.items())),
        refused=sorted(rejections, key=lambda rejection: (rejection.uri, rejection.reason)),
        passed_over=dict(sorted(source.passed_over.items())),
        short_sides_px=(int(sides.min()), float(np.median(sides)), int(sides.max())) if len(sides) else None,
        max_reject_fraction=max_reject_fraction,
        near_duplicates=NearDuplicateGroups(kept, groups),
        ranges=ranges,
        warnings=[*source.warnings, *contrast_warnings],
        size_px=choose_auto_size(take_rows(kept.select(["side"]), sample)["side"].to_numpy())
        if len(kept)
        else None,
        channels=(1 if all(kept["grey"].to_pylist()) else 3) if len(kept) else None,
    )


def _check_ranges(kept: pa.Table) -> tuple[list[str], list[str]]:
    """Return (how images of more than 8 bits would be read, warnings about lost contrast).

    The sums of such an image are those of its copy in the range of its own values.
    """
    num_values = 3 * HASH_SIZE_PX**2
    sums, square_sums = (kept[name].to_numpy() / (255 * num_values) for name in ("sum", "square_sum"))
    deep = np.flatnonzero(kept["peak"].is_valid().to_numpy())
    peaks = [Peak(*row.values()) for row in take_rows(kept.select(["peak", "float_peak"]), deep).to_pylist()]
    spec = choose_ranges(_build_hash_spec(1), peaks)
    scales = np.ones(len(kept))
    scales[deep] = [get_range(choose_ranges(spec, [peak]), peak) / get_range(spec, peak) for peak in peaks]
    integers = deep[[not peak.is_float for peak in peaks]]
    values = np.array([peak.value for peak in peaks if not peak.is_float])
    warnings = warn_outliers(values, take_rows(kept.select(["uri"]), integers)["uri"].to_pylist(), spec)
    mean = float((sums * scales).mean()) if len(kept) else 0.0
    std = float(max(0.0, (square_sums * scales**2).mean() / 255 - mean**2) ** 0.5) if len(kept) else 1.0
    return describe_ranges(spec), warnings + warn_low_contrast([mean], [std])


def _simulate_run(
    report: CheckReport,
    images: GroupedImages,
    rule: SplitRule | None,
    on_leak: str,
    min_test: int,
    multi_label: bool,
) -> np.ndarray | None:
    """Add the results of a first `convoy run` to the report: leaks, splits, and why it would stop.

    Returns:
        uint8 (N,): the position in SPLITS of each image's split; None if it would stop.
    """
    kept, groups = images.rows, images.groups
    if warning := describe_similar_names(report.classes):
        report.warnings.append(warning)
    leaks = find_leaks(kept["split"], groups)
    report.warnings += resolve_duplicates(report.refused, "warn") + resolve_leaks(kept, leaks, "warn")[2]
    if rule is None or not len(kept):
        return None
    try:
        resolve_duplicates(report.refused, on_leak)
        codes = _assign_split_codes(kept, rule, groups)
        codes[resolve_leaks(kept, leaks, on_leak)[0]] = _DROPPED_CODE
        labels = kept.select(["label"])
        left = labels.filter(pa.array(codes != _DROPPED_CODE)) if (codes == _DROPPED_CODE).any() else labels
        check_splits(left, {split for code, split in enumerate(SPLITS) if (codes == code).any()})
    except UserError as error:
        report.split_problem = str(error)
        return None
    counts = {split: Counter(dict.fromkeys(report.classes, 0)) for split in SPLITS}
    report.run_splits = dict.fromkeys(SPLITS, 0)
    start = 0
    for batch in labels.to_batches():
        for code, split in enumerate(SPLITS):
            in_split = batch["label"].filter(pa.array(codes[start : start + len(batch)] == code))
            report.run_splits[split] += len(in_split)
            counts[split].update(count_labels(in_split.to_pylist(), multi_label))
        start += len(batch)
    report.warnings += warn_small_classes(counts, min_test)
    return codes


def _assign_split_codes(kept: pa.Table, rule: SplitRule, groups: Groups) -> np.ndarray:
    """Return the position in SPLITS of each image's split, as uint8 (N,)."""
    code_by_split = {split: code for code, split in enumerate(SPLITS)}
    blocks = [
        np.array([code_by_split[split] for split in splits], np.uint8)
        for splits in iter_row_splits(kept, rule, groups)
    ]
    return np.concatenate([np.empty(0, np.uint8), *blocks])


class NearDuplicateGroups:
    """The uris of images that look alike, group by group; they are read from the disk on iteration.

    Attributes:
        num_images: number of images in all groups.
    """

    def __init__(self, kept: pa.Table, groups: Groups) -> None:
        near = np.flatnonzero(groups.is_near_duplicate).astype(np.int32)
        leaders = groups.leaders[near]
        order = np.argsort(leaders, kind="stable")
        self._uris, self._numbers, self._leaders = kept.select(["uri"]), near[order], leaders[order]
        self.num_images = len(near)

    def __len__(self) -> int:
        return int(np.count_nonzero(np.diff(self._leaders, prepend=-1)))

    def __iter__(self) -> Iterator[list[str]]:
        for _, pairs in groupby(self._iter_pairs(), key=itemgetter(0)):
            yield [uri for _, uri in pairs]

    def _iter_pairs(self) -> Iterator[tuple[int, str]]:
        for start in range(0, len(self._numbers), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            uris = take_rows(self._uris, self._numbers[rows])["uri"].to_pylist()
            yield from zip(self._leaders[rows].tolist(), uris, strict=True)
