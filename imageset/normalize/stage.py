"""The stage: read, decode, check, split, write.

Pictures are taken in the order in which they lie in the raw shards, and every shard of pixels belongs to one raw
shard: adding pictures adds shards and leaves the earlier ones byte for byte. The same raw data and parameters give
the same bytes, whatever the number of workers, and whether pictures are decoded or taken over from the dataset
that stands at the place already.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.executors.base import IMAGE_TIMEOUT_S, BaseExecutor
from imageset.executors.factory import open_executor
from imageset.normalize.dataset_files import (
    build_manifest,
    iter_index_batches,
    write_index,
    write_rejected_and_manifest,
)
from imageset.normalize.dataset_page import write_dataset_page
from imageset.normalize.params import check_normalize_params
from imageset.normalize.reuse import PreviousDataset
from imageset.normalize.rows import read_rows
from imageset.normalize.shard_writer import DecodeContext, choose_decode_spec, write_pixel_shards
from imageset.normalize.worker_modules import WORKER_MODULES
from imageset.raw import records as raw_records
from imageset.rejections import Rejection, describe_worst, count_harmful
from imageset.splits.groups import build_groups
from imageset.splits.leakage import find_leaks, resolve_duplicates, resolve_leaks
from imageset.splits.placement import check_splits, check_splits_early, compute_split_hashes, warn_small_classes
from imageset.splits.split_rule import (
    SplitRule,
)
from imageset.store import format
from imageset.utils.arrow import (
    iter_slices,
    take_rows,
    write_arrow,
)
from imageset.utils.atomic_write import BackgroundSync, replace_folder
from imageset.utils.memory import trim_memory
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.text import format_class_count, format_count

RELEASE_WORKERS_FROM = (
    100_000  # pictures, from which on memory counts for more than the start of workers for the report
)


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
    num_near_duplicates: int
    warnings: list[str]
    multi_label: bool = False

    def describe(self) -> str:
        """One line for a person."""
        size, _, channels = self.spec.shape
        total = sum(self.counts.values())
        splits = ", ".join(f"{split} {num:,}" for split, num in self.counts.items())
        refused = ", ".join(f"{num:,} {reason}" for reason, num in self.rejected.items()) or "none"
        again = f"; near duplicates: {self.num_near_duplicates:,}" if self.num_near_duplicates else ""
        again += f"; decoded: {self.num_decoded:,}" if self.num_decoded < total else ""
        return (
            f"{self.name}: {format_count(total, 'picture')} of {size}x{size}x{channels} "
            f"in {format_class_count(self.num_classes, self.multi_label)} ({splits}); rejected: {refused}{again}"
        )


def normalize(
    raw_dir: str | Path,
    out_dir: str | Path,
    params: Mapping[str, Any],
    *,
    workers: int | None = None,
    timeout_s: float = IMAGE_TIMEOUT_S,
    progress: Progress | None = None,
    executor: BaseExecutor | str | None = None,
) -> NormalizeSummary:
    """Turn the raw data into a normalized dataset at out_dir, which appears whole or not at all.

    `params` is the section `normalize` of params.yaml; `executor` an open one, or as open_executor takes it
    together with `workers`: the number of processes or threads, one a processor if None.

    Raises:
        UserError: wrong parameters, no raw data, fewer than two classes, an empty split, or more than
            max_reject_fraction of the pictures refused.
    """
    params = check_normalize_params(params)
    rule = SplitRule(**params["split"])
    raw_dir, progress = Path(raw_dir), progress or SilentProgress()
    name, multi_label = raw_records.read_source_identity(raw_dir)["name"], raw_records.is_multi_label(raw_dir)
    beside = Path(out_dir).parent
    beside.mkdir(parents=True, exist_ok=True)
    rows, refused = read_rows(raw_dir, rule, beside)
    trim_memory()
    copies = resolve_duplicates(refused, params["on_leak"])
    num_judged = len(rows) + count_harmful(refused)
    check_rejections(refused, num_judged, params["max_reject_fraction"], raw_dir)
    check_splits_early(rows, rule)
    with (
        nullcontext(executor)
        if isinstance(executor, BaseExecutor)
        else open_executor(executor, workers, WORKER_MODULES) as pool
    ):
        spec = choose_decode_spec(params, raw_dir, rows, pool, timeout_s, progress)
        with replace_folder(out_dir) as folder, BackgroundSync() as sync:
            work = DecodeContext(
                raw_dir, folder, spec, pool, timeout_s, PreviousDataset.open(out_dir, spec), progress, sync
            )
            with ThreadPoolExecutor(1) as thread:
                early = thread.submit(compute_split_hashes, rows["image_id"], rule, folder)
                rows, facts, num_decoded = write_pixel_shards(work, rows, refused)
            points = early.result()
            if points is not None and len(points) > len(rows):
                points = points[rows["number"].to_numpy()]
            del work  # and with it the earlier index
            if len(rows) >= RELEASE_WORKERS_FROM:
                pool.release_workers()
            check_rejections(refused, num_judged, params["max_reject_fraction"], raw_dir)
            ties = build_groups(rows, facts.phashes, params["near_duplicate_bits"], folder)
            leaks = find_leaks(rows["split"], ties)
            drop, leaked, warnings = resolve_leaks(rows, leaks, params["on_leak"])
            warnings = copies + warnings
            index = write_arrow(iter_index_batches(rows, rule, ties, facts, points), format.INDEX_SCHEMA, folder)
            num_near = ties.num_near
            del rows, facts, ties
            leaks_index = take_rows(index, np.array(drop, np.int64))
            if drop:
                kept = np.setdiff1d(np.arange(len(index)), drop)
                index = write_arrow(iter_slices(index, kept), format.INDEX_SCHEMA, folder)
            check_splits(index, index["split"].unique().to_pylist())
            refused += leaked
            with ThreadPoolExecutor(2) as threads:  # most of their time is not Python's
                written = threads.submit(write_index, folder, index, leaks_index, sync)
                fingerprint = threads.submit(format.compute_fingerprint, index, spec, multi_label)
                manifest = build_manifest(name, index, refused, spec, rule, multi_label, fingerprint)
                warnings += warn_small_classes(manifest["counts"], params["min_test_per_class"])
                write_dataset_page(folder, raw_dir, manifest, index, refused, warnings, pool, timeout_s)
                written.result()
            write_rejected_and_manifest(folder, manifest, refused)
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


# ---- check -----------------------------------------------------------------------------------------------------


def check_rejections(refused: list[Rejection], num_judged: int, most: float, raw_dir: Path) -> None:
    """Raise UserError when more than the fraction `most` of the pictures is refused; duplicates do not count."""
    num = count_harmful(refused)
    if num > most * num_judged:
        raise UserError(
            f"{raw_dir}: {num:,} of {format_count(num_judged, 'picture is', 'pictures are')} refused {describe_worst(refused)}; "
            f"that is more than max_reject_fraction {most:g}: repair the source, or raise "
            "params.yaml: normalize.max_reject_fraction"
        )
