"""Write predictions as Parquet, CSV or JSON lines, some thousand rows at a time."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from flows.prediction.cache import PREDICTION_SCHEMA, ImageRef, PredictionCache
from flows.prediction.delivery_record import DeliveredImages, DeliveryRecord
from imageset.exceptions import UserError
from imageset.labels import count_labels
from imageset.utils.atomic_write import own_temporary
from imageset.utils.text import escape_cell

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from flows.prediction.predictor import Predictor
    from imageset.utils.progress import Progress


TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
CELLS_OF_USERS = ("uri", "label", "error")  # their text may come from the names of files and classes
ROWS_PER_GROUP = 4096  # rows that are held in memory before they are written


def check_prediction(source: str | Sequence[str], out: str) -> None:
    """Raise UserError if `source` plainly holds no images, or `out` cannot be written. Reads nothing large."""
    from flows.prediction.image_stream import check_images

    target = Path(out)
    if target.is_dir():
        raise UserError(f"{target}: is a folder; name the file to write, e.g. {target / 'predictions.parquet'}")
    if target.suffix.lower() not in TABLE_SUFFIXES:
        raise UserError(
            f"{target}: predictions are written as Parquet, CSV or JSON lines; name a file that ends in .parquet, "
            ".csv or .jsonl"
        )
    if not target.parent.is_dir():
        raise UserError(f"{target.parent}: no such folder to write {target.name} into; make it first")
    check_images(source)


@dataclass
class PredictionCounts:
    """The shards of a table in order, and the number of rows of each label and status."""

    shard_names: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return self.statuses.total()

    @property
    def num_errors(self) -> int:
        """The number of images that could not be read or decoded."""
        return self.statuses["error"]

    @property
    def num_abstained(self) -> int:
        """The number of images that the model was not confident enough to label."""
        return self.statuses["abstained"]

    @classmethod
    def from_shards(cls, cache: PredictionCache, shard_names: list[str]) -> PredictionCounts:
        """Count the rows of these shards."""
        counts = cls(shard_names)
        for table in map(cache.read_shard, shard_names):
            counts.labels.update(count_labels(table["label"].to_pylist(), cache.multi_label))
            counts.statuses.update(table["status"].to_pylist())
        return counts


def predict_table(
    images: ImageStream,
    predictor: Predictor,
    cache: PredictionCache,
    out: Path,
    progress: Progress,
    *,
    new_only: bool = False,
) -> PredictionCounts:
    """Predict the images that are not in the cache, and write the table. The caller holds `cache.cache_lock`.

    Args:
        images: the images of the source.
        predictor: the model version.
        cache: its cache.
        out: the table to write.
        progress: advanced by each image.
        new_only: only the images that are in no table which was written before.

    Raises:
        UserError: with `new_only`, the table exists: its rows are in no other file.
    """
    record = DeliveryRecord(cache)
    committed, names = record.finish_commit()
    if not new_only:
        return write_output(out, cache, predictor.predict(images, cache, progress), predictor.to_metadata())
    if committed == out.absolute():  # moved there by a run that was killed before it recorded that
        return PredictionCounts.from_shards(cache, names)
    if out.exists():
        raise UserError(f"{out}: exists, and with --new-only its rows would be lost; name another file")
    names = predictor.predict(skip_delivered(record.load_index(), images), cache, progress)
    return write_output(out, cache, names, predictor.to_metadata())


def skip_delivered(
    delivered: DeliveredImages, images: Iterable[tuple[ImageRef, bytes]]
) -> Iterator[tuple[ImageRef, bytes]]:
    """Yield the images whose bytes are in no table that was written; unreadable images never are."""
    for image, data in images:
        if image.image_id is None or image.image_id not in delivered:
            yield image, data


def write_output(
    out: Path, cache: PredictionCache, names: list[str], facts: Mapping[str, str]
) -> PredictionCounts:
    """Join shards into one table, some thousand rows at a time; it appears complete or not at all."""
    with own_temporary(out) as temporary:
        write_table(temporary, out.suffix.lower(), map(cache.read_shard, names), facts)
        DeliveryRecord(cache).commit_output(temporary, out, names)
    counts = PredictionCounts.from_shards(cache, names)
    cache.mark_failures(names)
    return counts


def write_table(path: Path, suffix: str, tables: Iterable[pa.Table], facts: Mapping[str, str]) -> None:
    """Concatenate tables of PREDICTION_SCHEMA into one file.

    Args:
        path: the file to write.
        suffix: its format, one of TABLE_SUFFIXES.
        tables: the rows, in order.
        facts: metadata; only Parquet has a place for it, its key-value metadata.
    """
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}[suffix]
    write(path, regroup_rows(tables), facts)


def regroup_rows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of ROWS_PER_GROUP rows; only the last one may be shorter."""
    held: list[pa.Table] = []
    num_held = 0
    for table in tables:
        held.append(table)
        num_held += len(table)
        while num_held >= ROWS_PER_GROUP:
            rows = pa.concat_tables(held)
            yield rows.slice(0, ROWS_PER_GROUP).combine_chunks()
            held, num_held = [rows.slice(ROWS_PER_GROUP)], num_held - ROWS_PER_GROUP
    if num_held:
        yield pa.concat_tables(held).combine_chunks()


def _write_parquet(path: Path, tables: Iterable[pa.Table], facts: Mapping[str, str]) -> None:
    schema = PREDICTION_SCHEMA.with_metadata({f"convoy.{key}": value for key, value in facts.items()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata))


def _write_csv(path: Path, tables: Iterable[pa.Table], facts: Mapping[str, str]) -> None:
    """Write `top_k` as a cell of JSON, and null as an empty cell."""
    plain = pa.schema(
        [field.with_type(pa.string()) if field.name == "top_k" else field for field in PREDICTION_SCHEMA]
    )
    with path.open("wb") as file:
        pa_csv.write_csv(plain.empty_table(), file)
        for table in tables:
            column = PREDICTION_SCHEMA.get_field_index("top_k")
            cells = [None if top is None else json.dumps(top) for top in table["top_k"].to_pylist()]
            flat = table.set_column(column, plain.field(column), pa.array(cells, pa.string()))
            for name in CELLS_OF_USERS:
                texts = [None if text is None else escape_cell(text) for text in flat[name].to_pylist()]
                flat = flat.set_column(
                    flat.schema.get_field_index(name), plain.field(name), pa.array(texts, pa.string())
                )
            buffer = io.BytesIO()
            pa_csv.write_csv(flat, buffer, pa_csv.WriteOptions(include_header=False))
            file.write(buffer.getvalue())


def _write_jsonl(path: Path, tables: Iterable[pa.Table], facts: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
