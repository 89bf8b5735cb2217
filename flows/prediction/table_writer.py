"""A table of predictions as Parquet, CSV or JSON lines, written some rows at a time."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from flows.prediction.cache import PREDICTION_SCHEMA, CacheIndex, ImageRef, PredictionCache
from imageset.exceptions import UserError
from imageset.labels import count_labels

if TYPE_CHECKING:
    from flows.prediction.image_stream import ImageStream
    from flows.prediction.predictor import Predictor
    from imageset.utils.progress import Progress


def check_prediction(source: str, out: str) -> None:
    """Raise UserError where `source` holds no pictures, or `out` cannot be written."""
    from flows.prediction.image_stream import open_images
    from imageset.sources.factory import check_url
    from imageset.sources.remote.url import is_remote

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
    if is_remote(source):
        check_url(source)
    else:
        open_images(source)


TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")
ROWS_PER_GROUP = 4096  # rows that are held in memory before they are written


@dataclass
class PredictionCounts:
    """What stands in a table: its parts in order, and how many rows of each label and status."""

    shard_names: list[str] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def num_rows(self) -> int:
        return self.statuses.total()

    @property
    def num_errors(self) -> int:
        return self.statuses["error"]

    @property
    def num_abstained(self) -> int:
        return self.statuses["abstained"]

    @classmethod
    def from_shards(cls, parts: PredictionCache, names: list[str]) -> PredictionCounts:
        """What stands in some parts."""
        self = cls(names)
        for table in map(parts.read_shard, names):
            self.labels.update(count_labels(table["label"].to_pylist(), parts.multi_label))
            self.statuses.update(table["status"].to_pylist())
        return self


def predict_table(
    images: ImageStream,
    predictor: Predictor,
    cache: PredictionCache,
    out: Path,
    progress: Progress,
    *,
    new_only: bool = False,
) -> PredictionCounts:
    """Answer what was not answered before, and put the table together. For one caller at a time; see Parts.alone.

    Args:
        new_only: only the pictures that stand in no table which was written before.

    Raises:
        UserError: with new_only, the table exists: its rows stand nowhere else.
    """
    finished, names = cache.finish_commit()
    if not new_only:
        return write_output(out, cache, predictor.predict(images, cache, progress), predictor.to_metadata())
    if finished == out.absolute():  # put there by a run that was killed before it could say so
        return PredictionCounts.from_shards(cache, names)
    if out.exists():
        raise UserError(f"{out}: exists, and with --new-only its rows would be lost; name another file")
    names = predictor.predict(skip_indexed(cache.load_written_index(), images), cache, progress)
    return write_output(out, cache, names, predictor.to_metadata())


def skip_indexed(
    known: CacheIndex, pictures: Iterable[tuple[ImageRef, bytes]]
) -> Iterator[tuple[ImageRef, bytes]]:
    """The pictures whose bytes are not known yet; what cannot be read is never known."""
    for picture, data in pictures:
        if picture.image_id is None or known.find_answer(picture.image_id) is None:
            yield picture, data


def write_output(
    out: Path, parts: PredictionCache, names: list[str], facts: Mapping[str, str]
) -> PredictionCounts:
    """Put parts together into one table, some thousand rows at a time; it appears whole or not at all."""
    temporary = out.with_name(f".{out.name}.partial")
    try:
        write_table(temporary, out.suffix.lower(), map(parts.read_shard, names), facts)
        parts.commit_output(temporary, out, names)
    finally:
        temporary.unlink(missing_ok=True)
    counts = PredictionCounts.from_shards(parts, names)
    parts.mark_failures(names)
    return counts


def write_table(path: Path, ending: str, tables: Iterable[pa.Table], facts: Mapping[str, str]) -> None:
    """Write tables of SCHEMA one below the other in the format that `ending` names.

    Args:
        facts: kept with the table where the format has a place for them: Parquet's key-value metadata.
    """
    write = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}[ending]
    write(path, regroup_rows(tables), facts)


def regroup_rows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ROWS_A_GROUP, whatever they came in."""
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
    """top_k is a cell of JSON; what is null is an empty cell."""
    plain = pa.schema(
        [field.with_type(pa.string()) if field.name == "top_k" else field for field in PREDICTION_SCHEMA]
    )
    with path.open("wb") as file:
        pa_csv.write_csv(plain.empty_table(), file)
        for table in tables:
            column = PREDICTION_SCHEMA.get_field_index("top_k")
            cells = [None if top is None else json.dumps(top) for top in table["top_k"].to_pylist()]
            flat = table.set_column(column, plain.field(column), pa.array(cells, pa.string()))
            buffer = io.BytesIO()
            pa_csv.write_csv(flat, buffer, pa_csv.WriteOptions(include_header=False))
            file.write(buffer.getvalue())


def _write_jsonl(path: Path, tables: Iterable[pa.Table], facts: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
