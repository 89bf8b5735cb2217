"""The stage: read, decode, check, split, write.

Pictures are taken in the order in which they lie in the raw shards, and every shard of pixels belongs to one raw
shard: adding pictures adds shards and leaves the earlier ones byte for byte. The same raw data and parameters give
the same bytes, whatever the number of workers.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imageset import raw, store
from imageset.atomic import replacing_folder, write_text
from imageset.decode import FITS, INTERPOLATIONS, DecodeSpec, Header, Rejected
from imageset.errors import UserError
from imageset.params import check_keys
from imageset.pixels import Facts, Place, develop, header
from imageset.pool import CHUNKS_AHEAD, TIMEOUT_S, Workers, chunked, run_all
from imageset.progress import Progress, Silent
from imageset.quality import HARMLESS
from imageset.split import SPLITS, SplitRule, assign

KNOWN_PARAMS: Mapping[str, Any] = {
    "size": (int, str),
    "channels": (int, str),
    "fit": str,
    "interpolation": str,
    "max_pixels": int,
    "max_reject_fraction": float,
    "split": {"seed": int, "val": float, "test": float},
}
AUTO_SIZES_PX = (32, 64, 96, 128)
AUTO_SAMPLE = 2000  # pictures whose headers settle `size: auto`
MAX_SHARD_BYTES = 128 << 20  # of pixels


@dataclass(slots=True)
class Row:
    """One picture on its way into the dataset."""

    image_id: str
    uri: str
    label: str
    group: str | None
    made_split: str | None
    raw_shard: int
    offset: int
    size: int
    split: str = ""
    shard: int = -1
    row: int = -1
    facts: Facts | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One row of rejected.parquet."""

    uri: str
    image_id: str | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class NormalizeSummary:
    """What came out: pictures by split, classes, refusals by reason, and the decode parameters."""

    name: str
    counts: dict[str, int]
    num_classes: int
    rejected: dict[str, int]
    spec: DecodeSpec
    fingerprint: str

    def describe(self) -> str:
        """One line for a person."""
        size, _, channels = self.spec.shape
        splits = ", ".join(f"{split} {num:,}" for split, num in self.counts.items())
        refused = ", ".join(f"{num:,} {reason}" for reason, num in self.rejected.items()) or "none"
        return (f"{self.name}: {sum(self.counts.values()):,} pictures of {size}x{size}x{channels} "
                f"in {self.num_classes} classes ({splits}); rejected: {refused}")


def normalize(raw_dir: str | Path, out_dir: str | Path, params: Mapping[str, Any], *, workers: int | None = None,
              timeout_s: float = TIMEOUT_S, progress: Progress | None = None) -> NormalizeSummary:
    """Turn the raw data into a normalized dataset at out_dir, which appears whole or not at all.

    `params` is the section `normalize` of params.yaml; `workers` the number of processes, one a processor if None.

    Raises:
        UserError: wrong parameters, no raw data, fewer than two classes, an empty split, or more than
            max_reject_fraction of the pictures refused.
    """
    check_params(params)
    rule = SplitRule(**params["split"])
    raw_dir, progress = Path(raw_dir), progress or Silent()
    name = raw.read_source(raw_dir)["name"]
    rows, refused = read_rows(raw_dir)
    num_judged = len(rows) + num_harmful(refused)
    place_in_splits(rows, rule)
    with Workers(workers) as pool:
        spec = decide_spec(params, raw_dir, rows, pool, timeout_s, progress)
        with replacing_folder(out_dir) as folder:
            kept = write_pixels(raw_dir, folder, rows, refused, spec, pool, timeout_s, progress)
            check_refusals(refused, num_judged, params["max_reject_fraction"], raw_dir)
            check_splits(kept)
            return write_tables(folder, name, kept, refused, spec, rule)


def check_params(params: Mapping[str, Any]) -> None:
    """Raise UserError for an unknown or missing key, or a value out of range."""
    check_keys(params, KNOWN_PARAMS, where="params.yaml: normalize")
    for key, known in (("fit", FITS), ("interpolation", tuple(INTERPOLATIONS)), ("channels", ("auto", 1, 3))):
        if params[key] not in known:
            raise UserError(f"params.yaml: normalize.{key}: must be one of {', '.join(map(str, known))}, "
                            f"not {params[key]!r}")
    size = params["size"]
    if size != "auto" and not (isinstance(size, int) and 1 <= size <= 4096):
        raise UserError(f"params.yaml: normalize.size: must be auto or 1 to 4096 (px), not {size!r}")
    if params["max_pixels"] < 1:
        raise UserError("params.yaml: normalize.max_pixels: must be positive")
    if not 0 <= params["max_reject_fraction"] <= 1:
        raise UserError("params.yaml: normalize.max_reject_fraction: must be from 0 to 1")


# ---- read ------------------------------------------------------------------------------------------------------


def read_rows(raw_dir: Path) -> tuple[list[Row], list[Refusal]]:
    """The pictures to decode, one row for each picture's bytes, and what is refused without a look at them."""
    records = [one for one in raw.read_records(raw_dir).to_pylist() if not one["absent"]]
    refused = [Refusal(one["uri"], None, one["reason"], one["detail"]) for one in records if one["reason"]]
    readable = sorted((one for one in records if not one["reason"]), key=_order)
    rows: list[Row] = []
    for _, same in groupby(readable, key=lambda one: one["image_id"]):
        rows += _one_of(list(same), refused)
    rows.sort(key=lambda row: (row.raw_shard, row.offset))
    return rows, refused


def _order(record: Mapping[str, Any]) -> tuple[str, int, str]:
    """By picture; of the same picture first the one that came in the test split, then validation, then by uri."""
    preference = {"test": 0, "val": 1}.get(record["split"], 2)
    return record["image_id"], preference, record["uri"]


def _one_of(same: list[dict[str, Any]], refused: list[Refusal]) -> list[Row]:
    """Of the records of the same bytes keep the first; none where their labels disagree."""
    labelled = []
    for one in same:
        if one["label"] is None:
            refused.append(Refusal(one["uri"], one["image_id"], "unlabelled", "lies in no class folder"))
        else:
            labelled.append(one)
    labels = sorted({one["label"] for one in labelled})
    if len(labels) > 1:
        detail = "the same bytes are labelled " + " and ".join(labels)
        refused += [Refusal(one["uri"], one["image_id"], "label_conflict", detail) for one in labelled]
        return []
    refused += [Refusal(one["uri"], one["image_id"], "duplicate", f"the same bytes as {labelled[0]['uri']}")
                for one in labelled[1:]]
    return [Row(one["image_id"], one["uri"], one["label"], one["group"], one["split"], one["shard"], one["offset"],
                one["size"]) for one in labelled[:1]]


# ---- split -----------------------------------------------------------------------------------------------------


def place_in_splits(rows: list[Row], rule: SplitRule) -> None:
    """Give every row its split, and stop before the work where that leaves nothing to train or to judge by."""
    splits = assign([row.image_id for row in rows], [row.group for row in rows],
                    [row.made_split for row in rows], rule)
    for row, split in zip(rows, splits, strict=True):
        row.split = split
    check_splits(rows)


def check_splits(rows: list[Row]) -> None:
    """Raise UserError when there are no pictures, a single class, or an empty split."""
    if not rows:
        raise UserError("no pictures are left to make a dataset of; see what was ingested: `convoy run FOLDER`")
    classes = sorted({row.label for row in rows})
    if len(classes) < 2:
        raise UserError(f"a single class '{classes[0]}' is left; at least two are needed to learn a difference")
    present = {row.split for row in rows}
    for split in SPLITS:
        if split not in present:
            raise UserError(f"the {split} split is empty with {len(rows):,} pictures; add pictures, "
                            "or change params.yaml: normalize.split")


# ---- decode ----------------------------------------------------------------------------------------------------


def decide_spec(params: Mapping[str, Any], raw_dir: Path, rows: list[Row], pool: Workers, timeout_s: float,
                progress: Progress) -> DecodeSpec:
    """The decode parameters, with `auto` settled by the pictures' headers."""
    size, channels = params["size"], params["channels"]
    if "auto" in (size, channels):
        found_size, found_channels = _measure(rows, raw_dir, params, pool, timeout_s, progress)
        size = found_size if size == "auto" else size
        channels = found_channels if channels == "auto" else channels
    return DecodeSpec(size, channels, params["fit"], params["interpolation"], params["max_pixels"])


def _measure(rows: list[Row], raw_dir: Path, params: Mapping[str, Any], pool: Workers, timeout_s: float,
             progress: Progress) -> tuple[int, int]:
    """(size in px, channels): the size by the median of a sample, one channel only if every picture is grey.

    The sample is the pictures with the smallest image_ids: as good as random, and the same on every machine.
    """
    sides: list[int] = []
    progress.begin(total=len(rows), step="reading headers")
    places = (_raw_place(row, raw_dir) for row in sorted(rows, key=lambda row: row.image_id))
    found_colour = False
    for one in _headers(places, params["max_pixels"], pool, timeout_s):
        progress.advance()
        if isinstance(one, Header):
            sides += [min(one.width, one.height)] if len(sides) < AUTO_SAMPLE else []
            found_colour = found_colour or not one.grey
        if len(sides) >= AUTO_SAMPLE and (found_colour or params["channels"] != "auto"):
            break
    progress.end()
    median = float(np.median(sides)) if sides else 0.0
    size = next((size for size in AUTO_SIZES_PX if size >= median), AUTO_SIZES_PX[-1])
    return size, 3 if found_colour else 1


def _headers(places: Iterable[Place], max_pixels: int, pool: Workers,
             timeout_s: float) -> Iterator[Header | Rejected]:
    work = partial(header, max_pixels=max_pixels)
    for results in run_all(pool, work, chunked(places, lambda place: place.size), timeout_s=timeout_s,
                           ahead=CHUNKS_AHEAD * pool.num):
        yield from results


def write_pixels(raw_dir: Path, folder: Path, rows: list[Row], refused: list[Refusal], spec: DecodeSpec,
                 pool: Executor, timeout_s: float, progress: Progress) -> list[Row]:
    """Decode every row into shards of pixels; return the rows that are in, in order; `refused` gets the others."""
    plan = list(_shards(rows, spec))
    for number, shard in enumerate(plan):
        _reserve(folder / store.shard_name(number), len(shard), spec)
    progress.begin(total=len(rows))
    outcomes = _developed(raw_dir, folder, plan, spec, pool, timeout_s)
    kept: list[Row] = []
    for number, shard in enumerate(plan):
        good = []
        for row, outcome in zip(shard, outcomes, strict=False):
            progress.advance()
            if isinstance(outcome, Rejected):
                refused.append(Refusal(row.uri, row.image_id, outcome.reason, outcome.detail))
            else:
                row.shard, row.facts = number, outcome
                good.append(row)
        _close_gaps(folder / store.shard_name(number), [row.row for row in good], len(shard), spec)
        for position, row in enumerate(good):
            row.row = position
        kept += good
    progress.end()
    return kept


def _shards(rows: list[Row], spec: DecodeSpec) -> Iterator[list[Row]]:
    """Cut the rows into shards of pixels; a new raw shard begins a new one."""
    most = max(1, MAX_SHARD_BYTES // int(np.prod(spec.shape)))
    for _, group in groupby(rows, key=lambda row: row.raw_shard):
        together = list(group)
        for start in range(0, len(together), most):
            shard = together[start : start + most]
            for position, row in enumerate(shard):
                row.row = position
            yield shard


def _reserve(path: Path, num_pictures: int, spec: DecodeSpec) -> None:
    with path.open("wb") as file:
        file.write(store.npy_header((num_pictures, *spec.shape)))
        file.truncate(store.HEADER_BYTES + num_pictures * int(np.prod(spec.shape)))


def _developed(raw_dir: Path, folder: Path, plan: list[list[Row]], spec: DecodeSpec, pool: Executor,
               timeout_s: float) -> Iterator[Facts | Rejected]:
    row_bytes = int(np.prod(spec.shape))
    places = (
        _raw_place(row, raw_dir)._replace(out_file=str(folder / store.shard_name(number)),
                                          out_offset=store.HEADER_BYTES + row.row * row_bytes)
        for number, shard in enumerate(plan) for row in shard
    )
    work = partial(develop, spec=spec)
    ahead = CHUNKS_AHEAD * getattr(pool, "num", 1)
    chunks = chunked(places, lambda place: place.size)
    for results in run_all(pool, work, chunks, timeout_s=timeout_s, ahead=ahead):
        yield from results


def _raw_place(row: Row, raw_dir: Path) -> Place:
    return Place(row.image_id, str(raw_dir / raw.shard_name(row.raw_shard)), row.offset, row.size)


def _close_gaps(path: Path, good: list[int], num_reserved: int, spec: DecodeSpec) -> None:
    """Move the pixels of the good rows together where others between them were refused."""
    if len(good) == num_reserved:
        return
    row_bytes = int(np.prod(spec.shape))
    with path.open("r+b") as file:
        descriptor = file.fileno()
        for position, row in enumerate(good):
            if position != row:
                pixels = os.pread(descriptor, row_bytes, store.HEADER_BYTES + row * row_bytes)
                os.pwrite(descriptor, pixels, store.HEADER_BYTES + position * row_bytes)
        file.truncate(store.HEADER_BYTES + len(good) * row_bytes)
        os.pwrite(descriptor, store.npy_header((len(good), *spec.shape)), 0)


# ---- check -----------------------------------------------------------------------------------------------------


def num_harmful(refused: list[Refusal]) -> int:
    """How many refusals count towards max_reject_fraction."""
    return sum(one.reason not in HARMLESS for one in refused)


def check_refusals(refused: list[Refusal], num_judged: int, most: float, raw_dir: Path) -> None:
    """Raise UserError when more than the fraction `most` of the pictures is refused; duplicates do not count."""
    if num_harmful(refused) <= most * num_judged:
        return
    harmful = [one for one in refused if one.reason not in HARMLESS]
    reasons = Counter(one.reason for one in harmful)
    example = min(harmful, key=lambda one: (-reasons[one.reason], one.uri))
    counts = ", ".join(f"{num:,} {reason}" for reason, num in sorted(reasons.items(), key=lambda item: -item[1]))
    raise UserError(
        f"{raw_dir}: {len(harmful):,} of {num_judged:,} pictures are refused ({counts}), more than "
        f"max_reject_fraction {most:g}; e.g. {example.uri!r}: {example.reason}: {example.detail}; "
        "repair the source, or raise params.yaml: normalize.max_reject_fraction")


# ---- write -----------------------------------------------------------------------------------------------------


def write_tables(folder: Path, name: str, kept: list[Row], refused: list[Refusal], spec: DecodeSpec,
                 rule: SplitRule) -> NormalizeSummary:
    """Write index, refusals and, last, the manifest."""
    pq.write_table(_index(kept), folder / store.INDEX, compression="zstd")
    refused = sorted(refused, key=lambda one: (one.uri, one.image_id or ""))
    table = pa.Table.from_pylist([{field: getattr(one, field) for field in store.REJECTED_SCHEMA.names}
                                  for one in refused], store.REJECTED_SCHEMA)
    pq.write_table(table, folder / store.REJECTED, compression="zstd")
    manifest = _manifest(name, kept, refused, spec, rule)
    write_text(folder / store.MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    counts = {split: sum(manifest["counts"][split].values()) for split in SPLITS}
    return NormalizeSummary(name, counts, len(manifest["classes"]), manifest["rejected"], spec,
                            manifest["fingerprint"])


def _index(kept: list[Row]) -> pa.Table:
    own = ("image_id", "shard", "row", "label", "split", "group", "uri")
    facts = ("width", "height", "phash", "sums", "square_sums")
    columns = [[getattr(row, field) for row in kept] for field in own]
    columns += [[getattr(row.facts, field) for row in kept] for field in facts]
    return pa.Table.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, store.INDEX_SCHEMA.types, strict=True)],
        schema=store.INDEX_SCHEMA)


def _manifest(name: str, kept: list[Row], refused: list[Refusal], spec: DecodeSpec,
              rule: SplitRule) -> dict[str, Any]:
    classes = sorted({row.label for row in kept})
    mean, std = _statistics(kept, spec)
    by_split = Counter((row.split, row.label) for row in kept)
    return {
        "format": store.FORMAT,
        "name": name,
        "classes": classes,
        "mean": mean,
        "std": std,
        "counts": {split: {label: by_split[split, label] for label in classes} for split in SPLITS},
        "rejected": dict(sorted(Counter(one.reason for one in refused).items())),
        "decode": spec.to_dict(),
        "split": rule.to_dict(),
        "fingerprint": store.fingerprint(((row.image_id, row.label, row.split, row.group) for row in kept), spec),
    }


def _statistics(kept: list[Row], spec: DecodeSpec) -> tuple[list[float], list[float]]:
    training = [row.facts for row in kept if row.split == "train" and row.facts is not None]
    sums = [sum(column) for column in zip(*(facts.sums for facts in training), strict=True)]
    squares = [sum(column) for column in zip(*(facts.square_sums for facts in training), strict=True)]
    return store.mean_and_std(len(training) * spec.size**2, sums, squares)
