"""Write the tables of a normalized dataset: index.parquet, rejected.parquet, leaks.parquet and dataset.json."""

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
from imageset.normalize.tasks import (
    DecodedFacts,
)
from imageset.rejections import Rejection, count_reasons
from imageset.splits.groups import Groups
from imageset.splits.placement import iter_row_splits
from imageset.splits.split_rule import (
    SplitRule,
)
from imageset.store import format
from imageset.store.format import SPLITS
from imageset.utils.arrow import (
    ROWS_AT_ONCE,
)
from imageset.utils.atomic_write import BackgroundSync

ROW_GROUP_SIZE = 50_000  # rows of the index


# ---- write -----------------------------------------------------------------------------------------------------


def iter_index_batches(
    rows: pa.Table, rule: SplitRule, ties: Groups, facts: DecodedFacts, points: np.ndarray | None
) -> Iterator[pa.RecordBatch]:
    """The rows of format.INDEX_SCHEMA."""
    for start, splits in zip(
        range(0, len(rows), ROWS_AT_ONCE), iter_row_splits(rows, rule, ties, points), strict=True
    ):
        some = rows.slice(start, ROWS_AT_ONCE)
        alone = not ties.find_moved(start, len(some)).any()
        groups: list[str | None] = [None] * len(some) if alone else ties.build_assignments(start, len(some)).groups
        known = facts.take_rows(np.arange(start, start + len(some)))
        yield from build_index(some, splits, groups, known).combine_chunks().to_batches()


def build_index(rows: pa.Table, splits: list[str], groups: list[str | None], facts: DecodedFacts) -> pa.Table:
    """The table of format.INDEX_SCHEMA."""
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
    """Write the index and, where there are some, the leaks."""
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


def write_rejected_and_manifest(folder: Path, manifest: Mapping[str, Any], refused: list[Rejection]) -> None:
    """Write the refusals and, last, the manifest."""
    refused = sorted(refused, key=lambda one: (one.uri, one.image_id or ""))
    table = pa.Table.from_pylist(
        [{field: getattr(one, field) for field in format.REJECTED_SCHEMA.names} for one in refused],
        format.REJECTED_SCHEMA,
    )
    pq.write_table(table, folder / format.REJECTED_FILE, compression="zstd")
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / format.DATASET_MANIFEST_FILE).write_text(text, encoding="utf-8")  # the folder appears as a whole


def build_manifest(
    name: str,
    index: pa.Table,
    refused: list[Rejection],
    spec: DecodeSpec,
    rule: SplitRule,
    multi_label: bool,
    fingerprint: Future[str],
) -> dict[str, Any]:
    """What dataset.json says. `counts` are the pictures that bear a class, of which one may bear several."""
    borne_in: Counter[tuple[str, str]] = Counter()
    for batch in index.select(["label", "split"]).to_batches():
        positions, names = build_label_pairs(batch["label"], multi_label)
        splits = batch["split"].take(pa.array(positions))
        pairs = (
            pa.table([splits, names], ["split", "label"])
            .group_by(["split", "label"])
            .aggregate([([], "count_all")])
        )
        for pair in pairs.to_pylist():
            borne_in[pair["split"], pair["label"]] += pair["count_all"]
    classes = sorted({label for _, label in borne_in})
    mean, std = _compute_channel_stats(index, spec)
    pictures = _count_values(index["split"])
    return {
        "format": format.DATASET_FORMAT,
        "name": name,
        "task": MULTI_LABEL if multi_label else MULTI_CLASS,
        "classes": classes,
        "mean": mean,
        "std": std,
        "counts": {split: {label: borne_in[split, label] for label in classes} for split in SPLITS},
        "num_pictures": {split: pictures[split] for split in SPLITS},
        "rejected": count_reasons(refused),
        "decode": spec.to_dict(),
        "decoder": DECODER_VERSION,
        "split": rule.to_dict(),
        "fingerprint": fingerprint.result(),
    }


def _count_values(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({one["values"]: one["counts"] for one in values.value_counts().to_pylist()})


def _compute_channel_stats(index: pa.Table, spec: DecodeSpec) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the training split."""
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
    """Per-channel mean and standard deviation in 0..1 from exact whole-number sums over pixels of 0..255."""
    means, stds = [], []
    for total, squares in zip(sums, square_sums, strict=True):
        mean = total / num_pixels
        variance = (squares * num_pixels - total * total) / num_pixels**2  # exact until the division
        means.append(mean / 255)
        stds.append(math.sqrt(variance) / 255)
    return means, stds
