"""The stage: read, decode, check, split, write.

Pictures are taken in the order in which they lie in the raw shards, and every shard of pixels belongs to one raw
shard: adding pictures adds shards and leaves the earlier ones byte for byte. The same raw data and parameters give
the same bytes, whatever the number of workers, and whether pictures are decoded or taken over from the dataset
that stands at the place already.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset import raw, store
from imageset.atomic import EarlySync, replacing_folder
from imageset.decode import (
    AUTO_SIZES_PX,
    DECODER_VERSION,
    FIDELITIES,
    FITS,
    INTERPOLATIONS,
    DecodeSpec,
    Header,
    Rejected,
)
from imageset.earlier import Earlier
from imageset.errors import UserError
from imageset.executors import open_executor
from imageset.judge import Refusal, judge, num_harmful, reason_counts, worst
from imageset.labels import MULTI_CLASS, MULTI_LABEL, borne
from imageset.memory import trim
from imageset.ondisk import (
    ROWS_AT_ONCE,
    by_image_id,
    in_pieces,
    on_disk,
    strings,
    taken,
    text_of,
    zeros,
)
from imageset.params import check_keys, load_section
from imageset.pixels import Batch, Facts, carried, develop, develop_afar, headers, write_batch
from imageset.pool import CHUNKS_AHEAD, TIMEOUT_S, Crew, run_all
from imageset.progress import Progress, Silent
from imageset.report import write_report
from imageset.split import SPLITS, SplitRule, assign, found_in_uris, found_nowhere, points_of
from imageset.ties import ON_LEAK, Ties, find_leaks, settle_copies, settle_leaks, tie, with_ages
from imageset.times import parse_time
from imageset.words import count, count_kinds

KNOWN_PARAMS: Mapping[str, Any] = {
    "size_px": (int, str),
    "channels": (int, str),
    "fit": str,
    "interpolation": str,
    "max_pixels": int,
    "max_reject_fraction": float,
    "split": {"seed": int, "val": float, "test": float},
}
OPTIONAL_SPLIT: Mapping[str, Any] = {
    "by": "hash",
    "val_from": None,
    "test_from": None,
    "group": None,
    "time": None,
}
# Keys that may be left out, and what that means: that nothing of the kind is done.
OPTIONAL_PARAMS: Mapping[str, Any] = {
    "fidelity": "exact",
    "near_duplicate_bits": None,
    "on_leak": "warn",
    "min_test_per_class": 0,
}

AUTO_SAMPLE = 2000  # pictures whose headers settle `size: auto`
ROWS_ASKED_EARLY = 1000
POINTS_AT_ONCE = 500
REST_FROM = 100_000  # pictures, from which on memory counts for more than the start of workers for the report
ROW_GROUP = 50_000  # rows of the index
MAX_SHARD_BYTES = 128 << 20  # of pixels
BATCH_BYTES = 1 << 20  # of raw data, of one task for a worker
BATCH_PIXEL_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class NormalizeSummary:
    """What came out: pictures by split, classes, refusals by reason, and the decode parameters.

    counts are pictures; num_classes is the number of label names where a picture has several (multi_label).
    num_decoded counts the pictures that were decoded now, the others were taken over; num_near those that are tied
    to others that look alike; warnings are for a person.
    """

    name: str
    counts: dict[str, int]
    num_classes: int
    rejected: dict[str, int]
    spec: DecodeSpec
    fingerprint: str
    num_decoded: int
    num_near: int
    warnings: list[str]
    multi_label: bool = False

    def describe(self) -> str:
        """One line for a person."""
        size, _, channels = self.spec.shape
        total = sum(self.counts.values())
        splits = ", ".join(f"{split} {num:,}" for split, num in self.counts.items())
        refused = ", ".join(f"{num:,} {reason}" for reason, num in self.rejected.items()) or "none"
        again = f"; near duplicates: {self.num_near:,}" if self.num_near else ""
        again += f"; decoded: {self.num_decoded:,}" if self.num_decoded < total else ""
        return (
            f"{self.name}: {count(total, 'picture')} of {size}x{size}x{channels} "
            f"in {count_kinds(self.num_classes, self.multi_label)} ({splits}); rejected: {refused}{again}"
        )


def normalize(
    raw_dir: str | Path,
    out_dir: str | Path,
    params: Mapping[str, Any],
    *,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress | None = None,
    executor: Crew | str | None = None,
) -> NormalizeSummary:
    """Turn the raw data into a normalized dataset at out_dir, which appears whole or not at all.

    `params` is the section `normalize` of params.yaml; `executor` an open one, or as open_executor takes it
    together with `workers`: the number of processes or threads, one a processor if None.

    Raises:
        UserError: wrong parameters, no raw data, fewer than two classes, an empty split, or more than
            max_reject_fraction of the pictures refused.
    """
    params = check_params(params)
    rule = SplitRule(**params["split"])
    raw_dir, progress = Path(raw_dir), progress or Silent()
    name, multi_label = raw.read_source(raw_dir)["name"], raw.is_multi_label(raw_dir)
    beside = Path(out_dir).parent
    beside.mkdir(parents=True, exist_ok=True)
    rows, refused = read_rows(raw_dir, rule, beside)
    trim()
    copies = settle_copies(refused, params["on_leak"])
    num_judged = len(rows) + num_harmful(refused)
    check_refusals(refused, num_judged, params["max_reject_fraction"], raw_dir)
    check_early(rows, rule)
    with nullcontext(executor) if isinstance(executor, Crew) else open_executor(executor, workers) as pool:
        spec = decide_spec(params, raw_dir, rows, pool, timeout_s, progress)
        with replacing_folder(out_dir) as folder, EarlySync() as sync:
            work = Work(raw_dir, folder, spec, pool, timeout_s, Earlier.find(out_dir, spec), progress, sync)
            with ThreadPoolExecutor(1) as thread:
                early = thread.submit(points_alone, rows["image_id"], rule, folder)
                rows, facts, num_decoded = write_pixels(work, rows, refused)
            points = early.result()
            if points is not None and len(points) > len(rows):
                points = points[rows["number"].to_numpy()]
            del work  # and with it the earlier index
            if len(rows) >= REST_FROM:
                pool.rest()
            check_refusals(refused, num_judged, params["max_reject_fraction"], raw_dir)
            ties = tie(rows, facts.phashes, params["near_duplicate_bits"], folder)
            leaks = find_leaks(rows["split"], ties)
            drop, leaked, warnings = settle_leaks(rows, leaks, params["on_leak"])
            warnings = copies + warnings
            index = on_disk(index_batches(rows, rule, ties, facts, points), store.INDEX_SCHEMA, folder)
            num_near = ties.num_near
            del rows, facts, ties
            leaks_index = taken(index, np.array(drop, np.int64))
            if drop:
                kept = np.setdiff1d(np.arange(len(index)), drop)
                index = on_disk(in_pieces(index, kept), store.INDEX_SCHEMA, folder)
            check_splits(index, index["split"].unique().to_pylist())
            refused += leaked
            with ThreadPoolExecutor(2) as threads:  # most of their time is not Python's
                written = threads.submit(write_index, folder, index, leaks_index, sync)
                fingerprint = threads.submit(store.fingerprint, index, spec, multi_label)
                manifest = make_manifest(name, index, refused, spec, rule, multi_label, fingerprint)
                warnings += small_classes(manifest["counts"], params["min_test_per_class"])
                write_report(folder, raw_dir, manifest, index, refused, warnings, pool, timeout_s)
                written.result()
            write_tables(folder, manifest, refused)
    return NormalizeSummary(
        name,
        manifest["num_pictures"],
        len(manifest["classes"]),
        manifest["rejected"],
        spec,
        manifest["fingerprint"],
        num_decoded,
        num_near,
        warnings,
        multi_label,
    )


def read_params(path: str | Path) -> dict[str, Any]:
    """The checked section `normalize` of a params.yaml.

    Raises:
        UserError: it is missing or wrong.
    """
    return check_params(load_section(path, "normalize"))


def check_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with what was left out filled in; UserError for a wrong key or a value out of range."""
    params = dict(OPTIONAL_PARAMS) | dict(params)
    if isinstance(params.get("split"), Mapping):
        params["split"] = dict(OPTIONAL_SPLIT) | params["split"]
    known = dict(KNOWN_PARAMS) | {
        "split": dict(KNOWN_PARAMS["split"]) | dict.fromkeys(OPTIONAL_SPLIT),  # SplitRule checks these
        "fidelity": str,
        "near_duplicate_bits": (int, type(None)),
        "on_leak": str,
        "min_test_per_class": int,
    }
    check_keys(params, known, where="params.yaml: normalize")
    choices = {
        "fit": FITS,
        "interpolation": tuple(INTERPOLATIONS),
        "channels": ("auto", 1, 3),
        "fidelity": FIDELITIES,
        "on_leak": ON_LEAK,
        "near_duplicate_bits": (None, *range(9)),
    }
    for key, allowed in choices.items():
        if params[key] not in allowed:
            raise UserError(
                f"params.yaml: normalize.{key}: must be one of {', '.join(map(str, allowed))}, not {params[key]!r}"
            )
    size = params["size_px"]
    if size != "auto" and not (isinstance(size, int) and 1 <= size <= 4096):
        raise UserError(f"params.yaml: normalize.size_px: must be auto or 1 to 4096 (px), not {size!r}")
    if params["max_pixels"] < 1:
        raise UserError("params.yaml: normalize.max_pixels: must be positive")
    if not 0 <= params["max_reject_fraction"] <= 1:
        raise UserError("params.yaml: normalize.max_reject_fraction: must be from 0 to 1")
    SplitRule(**params["split"])
    return params


# ---- read ------------------------------------------------------------------------------------------------------


def read_rows(raw_dir: Path, rule: SplitRule, folder: Path) -> tuple[pa.Table, list[Refusal]]:
    """The pictures to decode, one row for each picture's bytes, in raw order, and what is refused unseen.

    They lie in a file of `folder`.
    """
    records = on_disk(complete(raw.record_batches(raw_dir), rule), raw.SCHEMA, folder)
    records = with_ages(records, raw.first_shards(raw_dir))
    here = np.flatnonzero(~records["absent"].to_numpy())
    if len(here) < len(records):
        records = on_disk(in_pieces(records, here), records.schema, folder)
    kept, refused = judge(records)
    if rule.by == "time":
        kept = dated(records, kept, refused)
    shards, offsets = (records[column].to_numpy()[kept] for column in ("shard", "offset"))
    kept = kept[np.lexsort((offsets, shards))]
    records = records.drop_columns(["absent", "reason", "detail"])
    return on_disk(in_pieces(records, kept), records.schema, folder), refused


def complete(records: Iterable[pa.RecordBatch], rule: SplitRule) -> Iterator[pa.RecordBatch]:
    """Records with the group and the time that the rule finds in their uris, where the source says none.

    Raises:
        UserError: it finds none in any of them.
    """
    patterns = {name: pattern for name, pattern in (("group", rule.group), ("time", rule.time)) if pattern}
    nowhere: dict[str, str] = {}  # where a uri was looked at and nothing found yet: that uri
    everywhere = set(patterns)
    for batch in records:
        for name, pattern in patterns.items():
            uris = batch["uri"].to_pylist()
            found = found_in_uris(pattern, uris)
            if any(found):
                everywhere.discard(name)
            elif uris:
                nowhere.setdefault(name, uris[0])
            values = found if name == "group" else [parse_time(one) for one in found]
            column = batch.schema.get_field_index(name)
            both = pc.coalesce(batch[name], pa.array(values, batch.schema.field(name).type))  # type: ignore[attr-defined]
            batch = batch.set_column(column, batch.schema.field(column), both)
        yield batch
    for name in patterns:
        if name in everywhere and name in nowhere:
            raise found_nowhere(patterns[name], nowhere[name], name)


def dated(records: pa.Table, kept: np.ndarray, refused: list[Refusal]) -> np.ndarray:
    """The positions `kept` whose rows have a time, or a split from the source; `refused` gets the others."""
    known = (records["time"].is_valid().to_numpy() | records["split"].is_valid().to_numpy())[kept]
    for row in taken(records.select(["uri", "image_id"]), kept[~known]).to_pylist():
        refused.append(Refusal(row["uri"], row["image_id"], "undated", "no time; params.yaml: normalize.split.by"))
    return kept[known]


# ---- split -----------------------------------------------------------------------------------------------------


def place_in_splits(rows: pa.Table, rule: SplitRule) -> list[str]:
    """The split of every row."""
    image_ids, groups, made = (strings(rows[column]) for column in ("image_id", "group", "split"))
    return assign(image_ids, groups, made, rule, rows["since"].to_numpy())  # type: ignore[arg-type]


def points_alone(image_ids: pa.ChunkedArray, rule: SplitRule, folder: Path) -> np.ndarray | None:
    """What split.points_of says of each picture by its own bytes, in a file of `folder`; None by time.

    For a thread beside others: it lets them go on after every few pictures.
    """
    if rule.by == "time":
        return None
    points = zeros(len(image_ids), np.float64, folder)
    for start in range(0, len(points), POINTS_AT_ONCE):
        some = strings(image_ids.slice(start, POINTS_AT_ONCE))
        points[start : start + len(some)] = points_of(some, [None] * len(some), rule.seed)  # type: ignore[arg-type]
        time.sleep(0)
    return points


def place_all(
    rows: pa.Table, rule: SplitRule, ties: Ties, points: np.ndarray | None = None
) -> Iterator[list[str]]:
    """The splits of the rows, ROWS_AT_ONCE at a time; `points` are those of points_alone."""
    source_splits = rows["split"].unique().to_pylist()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        made = strings(rows["split"].slice(start, ROWS_AT_ONCE))
        if points is None:
            some = ties.places(start, len(made))
            yield assign(some.keys, some.source_groups, made, rule, some.times, source_splits)
            continue
        known, moved = points[start : start + len(made)].copy(), np.flatnonzero(ties.moved(start, len(made)))
        if len(moved):
            some = ties.places(start, len(made))
            keys, groups = ([values[one] for one in moved.tolist()] for values in (some.keys, some.source_groups))
            known[moved] = points_of(keys, groups, rule.seed)  # type: ignore[arg-type]
        yield assign([], [], made, rule, None, source_splits, known)


def check_early(rows: pa.Table, rule: SplitRule) -> None:
    """check_splits before anything is decoded; where a few rows go into every split no others are asked."""
    some = taken(rows, np.arange(0, len(rows), max(1, len(rows) // ROWS_ASKED_EARLY)))
    if set(place_in_splits(some, rule)) < set(SPLITS) or len(some["label"].unique()) < 2:
        check_splits(rows, set(place_in_splits(rows, rule)))


def check_splits(rows: pa.Table, splits: Collection[str]) -> None:
    """Raise UserError when there are no pictures, a single class, or a split that is not among `splits`."""
    if not len(rows):
        raise UserError("no pictures are left to make a dataset of; see why with `convoy check FOLDER`")
    classes = rows["label"].unique().to_pylist()
    if len(classes) < 2:
        raise UserError(
            f"a single class '{classes[0] or 'none'}' is left; at least two are needed to learn a difference"
        )
    for split in SPLITS:
        if split not in splits:
            raise UserError(
                f"the {split} split is empty with {count(len(rows), 'picture')}; add pictures, "
                "or change params.yaml: normalize.split"
            )


# ---- decode ----------------------------------------------------------------------------------------------------


def decide_spec(
    params: Mapping[str, Any], raw_dir: Path, rows: pa.Table, pool: Crew, timeout_s: float, progress: Progress
) -> DecodeSpec:
    """The decode parameters, with `auto` settled by the pictures' headers."""
    size, channels = params["size_px"], params["channels"]
    if "auto" in (size, channels):
        found_size, found_channels = _measure(rows, raw_dir, params, pool, timeout_s, progress)
        size = found_size if size == "auto" else size
        channels = found_channels if channels == "auto" else channels
    return DecodeSpec(
        size, channels, params["fit"], params["interpolation"], params["max_pixels"], params["fidelity"]
    )


def _measure(
    rows: pa.Table, raw_dir: Path, params: Mapping[str, Any], pool: Crew, timeout_s: float, progress: Progress
) -> tuple[int, int]:
    """(size in px, channels): the size by the median of a sample, one channel only if every picture is grey.

    The sample is the pictures with the smallest image_ids: as good as random, and the same on every machine.
    """
    sides: list[int] = []
    progress.begin(total=len(rows), step="reading headers")
    found_colour = False
    sample = taken(rows, np.sort(by_image_id(rows["image_id"])[:AUTO_SAMPLE]))
    for one in _headers(sample, raw_dir, params, pool, timeout_s):
        progress.advance()
        if isinstance(one, Header):
            sides.append(min(one.width, one.height))
            found_colour = found_colour or not one.grey
    if params["channels"] == "auto" and not found_colour:
        for one in _headers(rows, raw_dir, params, pool, timeout_s):
            progress.advance()
            if isinstance(one, Header) and not one.grey:
                found_colour = True
                break
    progress.end()
    median = float(np.median(sides)) if sides else 0.0
    size = next((size for size in AUTO_SIZES_PX if size >= median), AUTO_SIZES_PX[-1])
    return size, 3 if found_colour else 1


def _headers(
    rows: pa.Table, raw_dir: Path, params: Mapping[str, Any], pool: Crew, timeout_s: float
) -> Iterator[Header | Rejected]:
    work = partial(headers, max_pixels=params["max_pixels"])
    batches = _batches(rows, np.zeros(len(rows), np.int64), raw_dir, "", 0, timeout_s)
    if pool.remote:
        batches = map(carried, batches)
    for outcome in run_all(pool, work, batches, alone=Batch.alone, ahead=CHUNKS_AHEAD * pool.num):
        for part in outcome:
            yield from [part] if isinstance(part, Rejected) else part


@dataclass(frozen=True, slots=True)
class Work:
    """What decoding needs besides the pictures."""

    raw_dir: Path
    folder: Path
    spec: DecodeSpec
    pool: Crew
    timeout_s: float
    earlier: Earlier
    progress: Progress
    sync: EarlySync


def write_pixels(work: Work, rows: pa.Table, refused: list[Refusal]) -> tuple[pa.Table, Facts, int]:
    """Decode every row into shards of pixels, or take it over.

    Returns (the rows that are in, with the columns shard and row of the pixels, their facts, how many were
    decoded); `refused` gets the others.
    """
    plan = _plan(rows, work.spec)
    facts = _facts_on_disk(len(rows), work.spec.channels, work.folder)
    work.progress.begin(total=len(rows))
    known = work.earlier.find_rows(rows["image_id"])
    facts.refused.update(work.earlier.refusals(rows["image_id"]))
    over = np.flatnonzero(known >= 0)
    facts.put(over, work.earlier.facts(known[over]))
    to_decode = [_prepare(work, number, known, some, facts.refused) for number, some in enumerate(plan)]
    batches = (
        batch
        for number, ((first, _), todo) in enumerate(zip(plan, to_decode, strict=True))
        for batch in _shard_batches(work, number, rows, first, todo)
    )
    _decode(work, batches, to_decode, facts)
    work.progress.end()
    shards, positions = np.full(len(rows), -1, np.int32), np.full(len(rows), -1, np.int32)
    for number, (first, num) in enumerate(plan):
        good = _but(np.arange(num), facts.refused, first)
        _close_gaps(work.folder / store.shard_name(number), good, work.spec)
        shards[first + good], positions[first + good] = number, np.arange(len(good))
    return *_kept(rows, facts, shards, positions, refused, work.folder), sum(map(len, to_decode))


def _facts_on_disk(num: int, channels: int, folder: Path) -> Facts:
    """Facts.empty in files of `folder`."""
    columns = Facts.empty(0, channels)[:5]
    return Facts._make([*(zeros((num, *one.shape[1:]), one.dtype.type, folder) for one in columns), {}])


def _but(rows: np.ndarray, refused: Mapping[int, object], first: int) -> np.ndarray:
    """The rows that are not refused; those are counted from `first`."""
    return rows[~np.isin(first + rows, np.fromiter(refused, np.int64, len(refused)))] if refused else rows


def _plan(rows: pa.Table, spec: DecodeSpec) -> list[tuple[int, int]]:
    """(first row, number of rows) of each shard of pixels; a new raw shard begins a new one."""
    most = max(1, MAX_SHARD_BYTES // int(np.prod(spec.shape)))
    raw_shards = rows["shard"].to_numpy()
    starts = np.flatnonzero(np.diff(raw_shards, prepend=-1))
    ends = np.append(starts[1:], len(raw_shards))
    return [
        (first, min(most, end - first))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for first in range(start, end, most)
    ]


def _prepare(
    work: Work, number: int, known: np.ndarray, some: tuple[int, int], refused: Mapping[int, object]
) -> np.ndarray:
    """Make one shard's file and take over what is known: the rows of the earlier index, -1 where there is none.

    Returns the rows (numbers in `known`) left to decode.
    """
    first, num = some
    path = work.folder / store.shard_name(number)
    known = known[first : first + num]
    todo, taken = _but(np.flatnonzero(known < 0), refused, first), np.flatnonzero(known >= 0)
    work.progress.advance(num - len(todo))
    if len(todo) == 0 and work.earlier.link(known[taken], path):
        return todo
    _reserve(path, num, work.spec)
    work.earlier.copy(known[taken], path, store.HEADER_BYTES + taken * int(np.prod(work.spec.shape)))
    return (first + todo).astype(np.int32)


def _reserve(path: Path, num_pictures: int, spec: DecodeSpec) -> None:
    with path.open("wb") as file:
        file.write(store.npy_header((num_pictures, *spec.shape)))
        file.truncate(store.HEADER_BYTES + num_pictures * int(np.prod(spec.shape)))


def _shard_batches(work: Work, number: int, rows: pa.Table, first: int, todo: np.ndarray) -> Iterator[Batch]:
    row_bytes = int(np.prod(work.spec.shape))
    out_offsets = store.HEADER_BYTES + (todo - first) * row_bytes
    out_file = str(work.folder / store.shard_name(number))
    for start in range(0, len(todo), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        part = taken(rows.select(["image_id", "shard", "offset", "size"]), todo[some])
        yield from _batches(part, out_offsets[some], work.raw_dir, out_file, row_bytes, work.timeout_s)


def _batches(
    rows: pa.Table, out_offsets: np.ndarray, raw_dir: Path, out_file: str, row_bytes: int, timeout_s: float
) -> Iterator[Batch]:
    """Cut rows (in raw order) into batches of one raw shard each."""
    shards, offsets, sizes = (rows[column].to_numpy() for column in ("shard", "offset", "size"))
    cost = np.maximum(sizes / BATCH_BYTES, row_bytes / BATCH_PIXEL_BYTES) + 1 / 4096
    number = np.floor(np.cumsum(cost)).astype(np.int64)
    starts = np.flatnonzero((np.diff(number, prepend=-1) != 0) | (np.diff(shards, prepend=-1) != 0))
    for start, end in zip(starts.tolist(), np.append(starts[1:], len(sizes)).tolist(), strict=False):
        image_ids = _digests(rows["image_id"].slice(start, end - start))
        yield Batch(
            str(raw_dir / raw.shard_name(int(shards[start]))),
            image_ids,
            offsets[start:end].tolist(),
            sizes[start:end].tolist(),
            out_file,
            out_offsets[start:end].tolist(),
            timeout_s,
        )


def _digests(image_ids: pa.ChunkedArray) -> list[bytes]:
    digests = b"".join(bytes.fromhex(text_of(chunk).tobytes().decode()) for chunk in image_ids.chunks)
    return [digests[start : start + 32] for start in range(0, len(digests), 32)]


def _decode(work: Work, batches: Iterator[Batch], to_decode: list[np.ndarray], facts: Facts) -> None:
    """Have the batches decoded; their pictures are the rows `to_decode` of each shard, in order."""
    todo, ends = np.concatenate([*to_decode, np.empty(0, np.int32)]), np.cumsum([*map(len, to_decode)])
    position = 0
    for part in _developed(work, batches):
        rows = todo[position : position + len(part.widths)]
        facts.put(rows, part)
        whole = np.flatnonzero((ends > position) & (ends <= position + len(rows)))
        position += len(rows)
        for number in whole.tolist():
            work.sync.start(work.folder / store.shard_name(number))
        work.progress.advance(len(rows))


def _developed(work: Work, batches: Iterator[Batch]) -> Iterator[Facts]:
    """Have the pixels written; yield the facts of each batch, or of each picture of one that killed its worker."""
    task: Callable[[Batch], Any] = partial(develop, spec=work.spec)
    if work.pool.remote:
        task, batches = partial(develop_afar, spec=work.spec), map(carried, batches)
    for outcome in run_all(work.pool, task, batches, alone=Batch.alone, ahead=CHUNKS_AHEAD * work.pool.num):
        for part in outcome:
            if isinstance(part, Rejected):
                yield Facts.empty(1, work.spec.channels)._replace(refused={0: (part.reason, part.detail)})
            elif work.pool.remote:
                batch, pixels, facts = part
                write_batch(batch, pixels)
                yield facts
            else:
                yield part


def _close_gaps(path: Path, good: np.ndarray, spec: DecodeSpec) -> None:
    """Move the pixels of the good rows together where others between them were refused."""
    row_bytes = int(np.prod(spec.shape))
    if path.stat().st_size == store.HEADER_BYTES + len(good) * row_bytes:
        return
    with path.open("r+b") as file:
        descriptor = file.fileno()
        for position, row in enumerate(good.tolist()):
            if position != row:
                pixels = os.pread(descriptor, row_bytes, store.HEADER_BYTES + row * row_bytes)
                os.pwrite(descriptor, pixels, store.HEADER_BYTES + position * row_bytes)
        file.truncate(store.HEADER_BYTES + len(good) * row_bytes)
        os.pwrite(descriptor, store.npy_header((len(good), *spec.shape)), 0)


def _kept(
    rows: pa.Table,
    facts: Facts,
    shards: np.ndarray,
    positions: np.ndarray,
    refused: list[Refusal],
    folder: Path,
) -> tuple[pa.Table, Facts]:
    """Take the refused rows out; the column `number` then says which rows are left."""
    bad = taken(rows.select(["uri", "image_id"]), np.fromiter(facts.refused, np.int64, len(facts.refused)))
    refused += [
        Refusal(row["uri"], row["image_id"], *why)
        for row, why in zip(bad.to_pylist(), facts.refused.values(), strict=True)
    ]
    rows = rows.drop_columns(["shard", "offset", "size"])
    rows = rows.append_column("shard", pa.array(shards)).append_column("row", pa.array(positions))
    if facts.refused:
        rows = rows.append_column("number", pa.array(np.arange(len(rows), dtype=np.int32)))
        good = np.flatnonzero(positions >= 0)
        rows = on_disk(in_pieces(rows, good), rows.schema, folder)
        facts = facts.take(good)
    return rows, facts


# ---- check -----------------------------------------------------------------------------------------------------


def check_refusals(refused: list[Refusal], num_judged: int, most: float, raw_dir: Path) -> None:
    """Raise UserError when more than the fraction `most` of the pictures is refused; duplicates do not count."""
    num = num_harmful(refused)
    if num > most * num_judged:
        raise UserError(
            f"{raw_dir}: {num:,} of {count(num_judged, 'picture is', 'pictures are')} refused {worst(refused)}; "
            f"that is more than max_reject_fraction {most:g}: repair the source, or raise "
            "params.yaml: normalize.max_reject_fraction"
        )


def small_classes(counts: Mapping[str, Mapping[str, int]], least: int) -> list[str]:
    """A warning for the classes that are learned but have fewer than `least` test pictures."""
    small = [f"{label} {num}" for label, num in counts["test"].items() if num < least and counts["train"][label]]
    if not small:
        return []
    shown = ", ".join(small[:10]) + (f" and {len(small) - 10} more" if len(small) > 10 else "")
    kinds = count_kinds(len(small), multi_label=False)
    return [f"fewer than {count(least, 'test picture')} in {kinds}: {shown}; their accuracy says little"]


# ---- write -----------------------------------------------------------------------------------------------------


def index_batches(
    rows: pa.Table, rule: SplitRule, ties: Ties, facts: Facts, points: np.ndarray | None
) -> Iterator[pa.RecordBatch]:
    """The rows of store.INDEX_SCHEMA."""
    for start, splits in zip(range(0, len(rows), ROWS_AT_ONCE), place_all(rows, rule, ties, points), strict=True):
        some = rows.slice(start, ROWS_AT_ONCE)
        alone = not ties.moved(start, len(some)).any()
        groups: list[str | None] = [None] * len(some) if alone else ties.places(start, len(some)).groups
        known = facts.take(np.arange(start, start + len(some)))
        yield from make_index(some, splits, groups, known).combine_chunks().to_batches()


def make_index(rows: pa.Table, splits: list[str], groups: list[str | None], facts: Facts) -> pa.Table:
    """The table of store.INDEX_SCHEMA."""
    columns = {name: rows[name] for name in ("image_id", "shard", "row", "label", "time", "uri")}
    columns |= {
        "group": pa.array(groups, pa.string()),
        "split": pa.array(splits, pa.string()),
        "width": pa.array(facts.widths),
        "height": pa.array(facts.heights),
        "phash": pa.array(facts.phashes),
        "sums": _lists(facts.sums),
        "square_sums": _lists(facts.square_sums),
    }
    return pa.table([columns[name] for name in store.INDEX_SCHEMA.names], store.INDEX_SCHEMA.names).cast(
        store.INDEX_SCHEMA
    )


def _lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def write_index(folder: Path, index: pa.Table, leaks: pa.Table, sync: EarlySync) -> None:
    """Write the index and, where there are some, the leaks."""
    for table, name in ((index, store.INDEX), (leaks, store.LEAKS)):
        if table is index or len(table):
            pq.write_table(
                table,
                folder / name,
                row_group_size=ROW_GROUP,
                compression="zstd",
                use_dictionary=["label", "split", "group"],
            )
            sync.start(folder / name)


def write_tables(folder: Path, manifest: Mapping[str, Any], refused: list[Refusal]) -> None:
    """Write the refusals and, last, the manifest."""
    refused = sorted(refused, key=lambda one: (one.uri, one.image_id or ""))
    table = pa.Table.from_pylist(
        [{field: getattr(one, field) for field in store.REJECTED_SCHEMA.names} for one in refused],
        store.REJECTED_SCHEMA,
    )
    pq.write_table(table, folder / store.REJECTED, compression="zstd")
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / store.MANIFEST).write_text(text, encoding="utf-8")  # the folder appears as a whole


def make_manifest(
    name: str,
    index: pa.Table,
    refused: list[Refusal],
    spec: DecodeSpec,
    rule: SplitRule,
    multi_label: bool,
    fingerprint: Future[str],
) -> dict[str, Any]:
    """What dataset.json says. `counts` are the pictures that bear a class, of which one may bear several."""
    borne_in: Counter[tuple[str, str]] = Counter()
    for batch in index.select(["label", "split"]).to_batches():
        positions, names = borne(batch["label"], multi_label)
        splits = batch["split"].take(pa.array(positions))
        pairs = (
            pa.table([splits, names], ["split", "label"])
            .group_by(["split", "label"])
            .aggregate([([], "count_all")])
        )
        for pair in pairs.to_pylist():
            borne_in[pair["split"], pair["label"]] += pair["count_all"]
    classes = sorted({label for _, label in borne_in})
    mean, std = _statistics(index, spec)
    pictures = _counts(index["split"])
    return {
        "format": store.FORMAT,
        "name": name,
        "task": MULTI_LABEL if multi_label else MULTI_CLASS,
        "classes": classes,
        "mean": mean,
        "std": std,
        "counts": {split: {label: borne_in[split, label] for label in classes} for split in SPLITS},
        "num_pictures": {split: pictures[split] for split in SPLITS},
        "rejected": reason_counts(refused),
        "decode": spec.to_dict(),
        "decoder": DECODER_VERSION,
        "split": rule.to_dict(),
        "fingerprint": fingerprint.result(),
    }


def _counts(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({one["values"]: one["counts"] for one in values.value_counts().to_pylist()})


def _statistics(index: pa.Table, spec: DecodeSpec) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the training split."""
    num, totals = 0, np.zeros((2, spec.channels), np.int64)
    for batch in index.select(["split", "sums", "square_sums"]).to_batches():
        training = batch.filter(pc.equal(batch["split"], "train"))  # type: ignore[attr-defined]
        num += len(training)
        for total, column in zip(totals, ("sums", "square_sums"), strict=True):
            total += training[column].flatten().to_numpy().reshape(-1, spec.channels).sum(0)
    return store.mean_and_std(num * spec.size**2, *totals.tolist())
