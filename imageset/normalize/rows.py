"""The rows to decode, completed with group and time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.raw import records as raw_records
from imageset.rejections import Rejection
from imageset.splits.duplicates import find_duplicates
from imageset.splits.groups import add_ages
from imageset.splits.split_rule import (
    SplitRule,
    build_no_match_error,
    match_uris,
)
from imageset.utils.arrow import (
    iter_slices,
    take_rows,
    write_arrow,
)
from imageset.utils.timestamps import parse_time

# ---- read ------------------------------------------------------------------------------------------------------


def read_rows(raw_dir: Path, rule: SplitRule, folder: Path) -> tuple[pa.Table, list[Rejection]]:
    """The pictures to decode, one row for each picture's bytes, in raw order, and what is refused unseen.

    They lie in a file of `folder`.
    """
    records = write_arrow(
        fill_group_and_time(raw_records.iter_record_batches(raw_dir), rule), raw_records.RECORDS_SCHEMA, folder
    )
    records = add_ages(records, raw_records.read_first_shards(raw_dir))
    here = np.flatnonzero(~records["absent"].to_numpy())
    if len(here) < len(records):
        records = write_arrow(iter_slices(records, here), records.schema, folder)
    kept, refused = find_duplicates(records)
    if rule.by == "time":
        kept = reject_undated(records, kept, refused)
    shards, offsets = (records[column].to_numpy()[kept] for column in ("shard", "offset"))
    kept = kept[np.lexsort((offsets, shards))]
    records = records.drop_columns(["absent", "reason", "detail"])
    return write_arrow(iter_slices(records, kept), records.schema, folder), refused


def fill_group_and_time(records: Iterable[pa.RecordBatch], rule: SplitRule) -> Iterator[pa.RecordBatch]:
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
            found = match_uris(pattern, uris)
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
            raise build_no_match_error(patterns[name], nowhere[name], name)


def reject_undated(records: pa.Table, kept: np.ndarray, refused: list[Rejection]) -> np.ndarray:
    """The positions `kept` whose rows have a time, or a split from the source; `refused` gets the others."""
    known = (records["time"].is_valid().to_numpy() | records["split"].is_valid().to_numpy())[kept]
    for row in take_rows(records.select(["uri", "image_id"]), kept[~known]).to_pylist():
        refused.append(
            Rejection(row["uri"], row["image_id"], "undated", "no time; params.yaml: normalize.split.by")
        )
    return kept[known]
