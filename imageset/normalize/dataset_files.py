"""The writers of the tables and of dataset.json of a normalized dataset."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imageset.decoding.decoder import DECODER_VERSION
from imageset.decoding.spec import DecodeSpec
from imageset.labels import MULTI_CLASS, MULTI_LABEL, build_label_pairs
from imageset.normalize.tasks import DecodedFacts
from imageset.rejections import Rejection, count_reasons
from imageset.splits.groups import Groups
from imageset.splits.placement import iter_row_splits
from imageset.splits.split_rule import SplitRule
from imageset.store import format
from imageset.store.format import SPLITS
from imageset.utils.arrow import ROWS_AT_ONCE
from imageset.utils.atomic_write import BackgroundSync
from imageset.utils.integrity.file_digests import add_digests, hash_files

ROW_GROUP_SIZE = 50_000  # rows of the index


def iter_index_batches(
    rows: pa.Table, rule: SplitRule, groups: Groups, facts: DecodedFacts, hashes: np.ndarray | None
) -> Iterator[pa.RecordBatch]:
    """Yield the index in batches of format.INDEX_SCHEMA.

    Args:
        rows: the decoded images, with the columns shard and row of their pixels.
        rule: the split rule.
        groups: the groups of the rows.
        facts: of the same rows.
        hashes: the result of `compute_split_hashes` for the rows.
    """
    for start, splits in zip(
        range(0, len(rows), ROWS_AT_ONCE), iter_row_splits(rows, rule, groups, hashes), strict=True
    ):
        batch = rows.slice(start, ROWS_AT_ONCE)
        num = len(batch)
        ungrouped = not groups.find_moved(start, num).any()
        names: list[str | None] = [None] * num if ungrouped else groups.build_assignments(start, num).groups
        batch_facts = facts.take_rows(np.arange(start, start + num))
        yield from build_index(batch, splits, names, batch_facts).combine_chunks().to_batches()


def build_index(rows: pa.Table, splits: list[str], groups: list[str | None], facts: DecodedFacts) -> pa.Table:
    """Build a table of format.INDEX_SCHEMA.

    Args:
        rows: images with the columns shard and row of their pixels.
        splits: the split of each row.
        groups: the name of each row's group, or None.
        facts: of the same rows.
    """
    columns = {name: rows[name] for name in ("image_id", "shard", "row", "label", "time", "uri")}
    columns |= {
        "group": pa.array(groups, pa.string()),
        "split": pa.array(splits, pa.string()),
        "width": pa.array(facts.widths),
        "height": pa.array(facts.heights),
        "phash": pa.array(facts.phashes),
        "sums": _to_list_array(facts.sums),
        "square_sums": _to_list_array(facts.square_sums),
    }
    return pa.table([columns[name] for name in format.INDEX_SCHEMA.names], format.INDEX_SCHEMA.names).cast(
        format.INDEX_SCHEMA
    )


def _to_list_array(values: np.ndarray) -> pa.Array:
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def write_index(folder: Path, index: pa.Table, leaks: pa.Table, sync: BackgroundSync) -> None:
    """Write index.parquet and, if there are leaks, leaks.parquet; start to sync both to disk."""
    for table, name in ((index, format.INDEX_FILE), (leaks, format.LEAKS_FILE)):
        if table is index or len(table):
            pq.write_table(
                table,
                folder / name,
                row_group_size=ROW_GROUP_SIZE,
                compression="zstd",
                use_dictionary=["label", "split", "group"],
            )
            sync.submit(folder / name)


def write_peaks(folder: Path, image_ids: pa.ChunkedArray, facts: DecodedFacts) -> None:
    """Write peaks.parquet if there are images of more than 8 bits a channel."""
    deep = np.flatnonzero(facts.peaks >= 0)
    if len(deep):
        columns = [image_ids.take(pa.array(deep)), pa.array(facts.peaks[deep]), pa.array(facts.float_peaks[deep])]
        table = pa.table(columns, format.PEAKS_SCHEMA.names).cast(format.PEAKS_SCHEMA)
        pq.write_table(table.sort_by("image_id"), folder / format.PEAKS_FILE, compression="zstd")


def write_rejected_and_manifest(
    folder: Path, manifest: Mapping[str, Any], rejections: list[Rejection], known_digests: Mapping[str, str]
) -> None:
    """Write rejected.parquet and, last, the manifest with the digests of all files.

    Args:
        folder: of the dataset.
        manifest: the result of `build_manifest`.
        rejections: all rejected images.
        known_digests: the SHA-256 of shards that were linked, by name.
    """
    rejections = sorted(rejections, key=lambda rejection: (rejection.uri, rejection.image_id or ""))
    names = format.REJECTED_SCHEMA.names
    table = pa.Table.from_pylist(
        [{name: getattr(rejection, name) for name in names} for rejection in rejections],
        format.REJECTED_SCHEMA,
    )
    pq.write_table(table, folder / format.REJECTED_FILE, compression="zstd")
    unknown = [file.name for file in folder.iterdir() if file.name not in known_digests]
    complete = add_digests(manifest, {**known_digests, **hash_files(folder, unknown)})
    text = json.dumps(complete, indent=1, ensure_ascii=False) + "\n"
    (folder / format.DATASET_MANIFEST_FILE).write_text(
        text, encoding="utf-8"
    )  # its folder is renamed when complete


def build_manifest(
    name: str,
    index: pa.Table,
    rejections: list[Rejection],
    spec: DecodeSpec,
    rule: SplitRule,
    multi_label: bool,
    fingerprint: Future[str],
) -> dict[str, Any]:
    """Build the content of dataset.json.

    `counts` are the images that have a class: an image of a multi-label dataset counts for each of its classes.

    Args:
        name: the dataset's name.
        index: the table of format.INDEX_SCHEMA.
        rejections: all rejected images.
        spec: the decode parameters.
        rule: the split rule.
        multi_label: whether the dataset is multi-label.
        fingerprint: the future of `compute_fingerprint`.
    """
    num_by_split_and_label: Counter[tuple[str, str]] = Counter()
    for batch in index.select(["label", "split"]).to_batches():
        positions, names = build_label_pairs(batch["label"], multi_label)
        splits = batch["split"].take(pa.array(positions))
        pairs = (
            pa.table([splits, names], ["split", "label"])
            .group_by(["split", "label"])
            .aggregate([([], "count_all")])
        )
        for pair in pairs.to_pylist():
            num_by_split_and_label[pair["split"], pair["label"]] += pair["count_all"]
    classes = sorted({label for _, label in num_by_split_and_label})
    mean, std = _compute_channel_stats(index, spec)
    num_by_split = _count_values(index["split"])
    return {
        "format": format.DATASET_FORMAT,
        "name": name,
        "task": MULTI_LABEL if multi_label else MULTI_CLASS,
        "classes": classes,
        "mean": mean,
        "std": std,
        "counts": {split: {label: num_by_split_and_label[split, label] for label in classes} for split in SPLITS},
        "num_pictures": {split: num_by_split[split] for split in SPLITS},
        "rejected": count_reasons(rejections),
        "decode": spec.to_dict(),
        "decoder": DECODER_VERSION,
        "split": rule.to_dict(),
        "fingerprint": fingerprint.result(),
    }


def _count_values(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in values.value_counts().to_pylist()})


def _compute_channel_stats(index: pa.Table, spec: DecodeSpec) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel over the training split."""
    num, totals = 0, np.zeros((2, spec.channels), np.int64)
    for batch in index.select(["split", "sums", "square_sums"]).to_batches():
        training = batch.filter(pc.equal(batch["split"], "train"))  # type: ignore[attr-defined]
        num += len(training)
        for total, column in zip(totals, ("sums", "square_sums"), strict=True):
            total += training[column].flatten().to_numpy().reshape(-1, spec.channels).sum(0)
    return compute_mean_and_std(num * spec.size**2, *totals.tolist())


def compute_mean_and_std(
    num_pixels: int, sums: list[int], square_sums: list[int]
) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel, in 0..1, from exact integer sums.

    Args:
        num_pixels: of each channel.
        sums: of the pixels 0..255, for each channel.
        square_sums: of their squares, for each channel.
    """
    means, stds = [], []
    for total, squares in zip(sums, square_sums, strict=True):
        mean = total / num_pixels
        variance = (squares * num_pixels - total * total) / num_pixels**2  # exact before the division
        means.append(mean / 255)
        stds.append(math.sqrt(variance) / 255)
    return means, stds
