"""The DVC stage `normalize`: read, decode, check, split, write.

Images keep the order of the raw shards, and every pixel shard belongs to a single raw shard: adding images adds
shards and leaves the earlier ones unchanged, byte for byte. The same raw data and parameters give the same bytes
with any number of workers, whether images are decoded or reused from the previous dataset in the output folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imageset.decoding.bit_depth import describe_ranges
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.executors.base import IMAGE_TIMEOUT_S, BaseExecutor
from imageset.executors.factory import open_executor
from imageset.normalize.contrast import warn_low_contrast, warn_outliers
from imageset.normalize.dataset_files import (
    build_manifest,
    iter_index_batches,
    write_index,
    write_peaks,
    write_rejected_and_manifest,
)
from imageset.normalize.dataset_page import write_dataset_page
from imageset.normalize.params import check_normalize_params
from imageset.normalize.reuse import PreviousDataset
from imageset.normalize.rows import prefer_content_reasons, read_rows, replace_reasons
from imageset.normalize.shard_writer import DecodeContext, choose_decode_spec, write_pixel_shards
from imageset.normalize.worker_modules import WORKER_MODULES
from imageset.raw import source_file
from imageset.raw.damage import check_raw_files
from imageset.rejections import CONTENT_REASONS, Rejected, Rejection, count_harmful, describe_worst
from imageset.splits.grouping import describe_sequences, group_images, warn_divided_images
from imageset.splits.leakage import find_leaks, resolve_duplicates, resolve_leaks
from imageset.splits.placement import (
    check_splits,
    check_splits_early,
    compute_split_hashes,
    describe_moves,
    warn_small_classes,
)
from imageset.splits.split_rule import SplitRule
from imageset.splits.stratification import encode_splits
from imageset.store import format
from imageset.utils.arrow import iter_slices, take_rows, write_arrow
from imageset.utils.atomic_write import BackgroundSync, replace_folder
from imageset.utils.memory import trim_memory
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.text import format_class_count, format_count

# From this number of images on, saving memory matters more than the time to start workers again for the page.
RELEASE_WORKERS_FROM = 100_000


@dataclass(frozen=True, slots=True)
class NormalizeSummary:
    """The result of the stage.

    Attributes:
        name: the dataset's name.
        counts: number of images by split.
        num_classes: number of classes, or of label names for a multi-label dataset.
        rejected: number of rejections by reason.
        spec: the decode parameters.
        fingerprint: identity of the dataset.
        num_decoded: number of images that were decoded; the others were reused.
        num_near_duplicates: number of images that are grouped because they look alike.
        warnings: lines for the user.
        multi_label: whether an image may have several labels.
        sequences: a line about sequences that are kept together, or "".
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
    sequences: str = ""

    def describe(self) -> str:
        """Return a summary in one line."""
        size, _, channels = self.spec.shape
        total = sum(self.counts.values())
        splits = ", ".join(f"{split} {num:,}" for split, num in self.counts.items())
        rejected = ", ".join(f"{num:,} {reason}" for reason, num in self.rejected.items()) or "none"
        extra = f"; near duplicates: {self.num_near_duplicates:,}" if self.num_near_duplicates else ""
        extra += "".join(f"; {clause}" for clause in describe_ranges(self.spec))
        extra += f"; decoded: {self.num_decoded:,}" if self.num_decoded < total else ""
        return (
            f"{self.name}: {format_count(total, 'picture')} of {size}x{size}x{channels} "
            f"in {format_class_count(self.num_classes, self.multi_label)} ({splits}); rejected: {rejected}{extra}"
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
    """Convert the raw data to a normalized dataset, which appears at `out_dir` only when it is complete.

    Args:
        raw_dir: the ingested raw data.
        out_dir: the dataset; a dataset that is there is reused and replaced.
        params: the section `normalize` of params.yaml.
        workers: number of processes or threads; None means one for each processor.
        timeout_s: seconds for one image.
        progress: shows the images that are decoded.
        executor: an open executor, or a name for open_executor.

    Raises:
        UserError: wrong parameters, no raw data, fewer than two classes, an empty split, or more than
            max_reject_fraction of the images rejected.
    """
    params = check_normalize_params(params)
    rule = SplitRule(**params["split"])
    raw_dir, progress = Path(raw_dir), progress or SilentProgress()
    name, multi_label = source_file.read_source_identity(raw_dir)["name"], source_file.is_multi_label(raw_dir)
    parent = Path(out_dir).parent
    parent.mkdir(parents=True, exist_ok=True)
    check_raw_files(raw_dir)
    rows, rejections, history = read_rows(raw_dir, rule, parent)
    trim_memory()
    with (
        nullcontext(executor)
        if isinstance(executor, BaseExecutor)
        else open_executor(executor, workers, WORKER_MODULES) as active
    ):
        rejections = prefer_content_reasons(rejections, raw_dir, active, params["max_pixels"], timeout_s)
        copy_warnings = [*_warn_disputes(rejections), *resolve_duplicates(rejections, params["on_leak"])]
        num_images = len(rows) + count_harmful(rejections)
        check_rejections(rejections, num_images, params["max_reject_fraction"], raw_dir)
        check_splits_early(rows, rule)
        spec = choose_decode_spec(params, raw_dir, rows, active, timeout_s, progress)
        with replace_folder(out_dir) as folder, BackgroundSync() as sync:
            previous = PreviousDataset.open(out_dir, spec)
            context = DecodeContext(raw_dir, folder, spec, active, timeout_s, previous, progress, sync)
            with ThreadPoolExecutor(1) as thread:
                hashing = thread.submit(compute_split_hashes, rows["image_id"], rule, folder)
                rows, facts, num_decoded, spec = write_pixel_shards(context, rows, rejections)
            rejections, num_copies = _refuse_copies(rejections)
            num_images += num_copies
            hashes = hashing.result()
            if hashes is not None and len(hashes) > len(rows):
                hashes = hashes[rows["number"].to_numpy()]
            damage, linked_digests = previous.damage, previous.linked_digests
            previous_codes = previous.read_splits(rows["image_id"])
            del context, previous  # frees the previous index
            if len(rows) >= RELEASE_WORKERS_FROM:
                active.release_workers()
            check_rejections(rejections, num_images, params["max_reject_fraction"], raw_dir)
            max_bits = params["near_duplicate_bits"]
            rows, groups, sequences = group_images(
                rows, history, facts.phashes, rule, max_bits, multi_label, folder
            )
            leaks = find_leaks(rows["split"], groups)
            drop, leaked, leak_warnings = resolve_leaks(rows, leaks, params["on_leak"])
            deep = np.flatnonzero(facts.find_peaks(is_float=False))
            uris = take_rows(rows.select(["uri"]), deep)["uri"].to_pylist()
            warnings = copy_warnings + leak_warnings + warn_outliers(facts.peaks[deep], uris, spec)
            index = write_arrow(iter_index_batches(rows, rule, groups, facts, hashes), format.INDEX_SCHEMA, folder)
            write_peaks(folder, rows["image_id"], facts)
            codes = encode_splits(index["split"])
            warnings += warn_divided_images(rows, sequences, facts.phashes, codes, rule, max_bits)
            moved = describe_moves(previous_codes, codes)
            num_near_duplicates = groups.num_near_duplicates
            del rows, facts, groups, history
            leaks_index = take_rows(index, np.array(drop, np.int64))
            if drop:
                kept = np.setdiff1d(np.arange(len(index)), drop)
                index = write_arrow(iter_slices(index, kept), format.INDEX_SCHEMA, folder)
            check_splits(index, index["split"].unique().to_pylist())
            rejections += leaked
            with ThreadPoolExecutor(2) as threads:  # both release Python's global lock most of the time
                writing = threads.submit(write_index, folder, index, leaks_index, sync)
                fingerprint = threads.submit(format.compute_fingerprint, index, spec, multi_label)
                manifest = build_manifest(name, index, rejections, spec, rule, multi_label, fingerprint)
                if line := describe_sequences(sequences, rule):
                    manifest["sequences"] = line
                warnings += warn_small_classes(manifest["counts"], params["min_test_per_class"])
                warnings += warn_low_contrast(manifest["mean"], manifest["std"])
                write_dataset_page(folder, raw_dir, manifest, index, rejections, warnings, active, timeout_s)
                writing.result()
            write_rejected_and_manifest(folder, manifest, rejections, linked_digests)
    return NormalizeSummary(
        name,
        manifest["num_pictures"],
        len(manifest["classes"]),
        manifest["rejected"],
        spec,
        manifest["fingerprint"],
        num_decoded,
        num_near_duplicates,
        damage + moved + warnings,  # the page holds the last: only these follow from the data and parameters alone
        multi_label,
        describe_sequences(sequences, rule),
    )


def _refuse_copies(rejections: list[Rejection]) -> tuple[list[Rejection], int]:
    """Give the exact duplicates of what cannot be decoded its reason; return (the rejections, their number)."""
    contents = {
        rejection.image_id: Rejected(rejection.reason, rejection.detail)
        for rejection in rejections
        if rejection.image_id is not None and rejection.reason in CONTENT_REASONS
    }
    num = sum(rejection.reason == "duplicate" and rejection.image_id in contents for rejection in rejections)
    return replace_reasons(rejections, {"duplicate"}, contents), num


def _warn_disputes(rejections: list[Rejection]) -> Iterator[str]:
    """Yield a line about the images that are held out since people disagree about their labels."""
    disputes = [rejection for rejection in rejections if rejection.reason == "label_dispute"]
    if disputes:
        yield (
            f"{format_count(len(disputes), 'picture is', 'pictures are')} held out, since people disagree about "
            f"their labels, e.g. {disputes[0]}; "
            "a table of image_id and label decides: `convoy ingest TABLE --resolve`"
        )


def check_rejections(rejections: list[Rejection], num_images: int, max_fraction: float, raw_dir: Path) -> None:
    """Raise UserError if more than `max_fraction` of the images are rejected; duplicates do not count."""
    num = count_harmful(rejections)
    if num > max_fraction * num_images:
        raise UserError(
            f"{raw_dir}: {num:,} of {format_count(num_images, 'picture is', 'pictures are')} refused "
            f"{describe_worst(rejections)}; that is more than max_reject_fraction {max_fraction:g}: "
            "repair the source, or raise params.yaml: normalize.max_reject_fraction"
        )
