"""The rows to decode, with group and time filled in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imageset.executors.base import BaseExecutor
from imageset.executors.stream import map_stream
from imageset.normalize.tasks import try_to_decode
from imageset.raw import records as raw_records
from imageset.raw import source_file
from imageset.raw.label_log import LabelLog, read_label_log
from imageset.raw.shards import read_image_bytes
from imageset.rejections import Rejected, Rejection
from imageset.splits.duplicates import find_duplicates
from imageset.splits.grouping import add_names
from imageset.splits.groups import add_ages
from imageset.splits.split_rule import SplitRule, build_no_match_error, match_uris
from imageset.utils.arrow import iter_slices, take_rows, write_arrow
from imageset.utils.timestamps import parse_time

_REASONS_BEFORE_DECODING = frozenset({"label_conflict", "label_dispute", "leak", "unlabelled", "undated"})


def read_rows(raw_dir: Path, rule: SplitRule, folder: Path) -> tuple[pa.Table, list[Rejection], pa.Table | None]:
    """Read the images to decode and reject those that need no decoding for it.

    Args:
        raw_dir: the ingested raw data.
        rule: the split rule.
        folder: where the unnamed files of the tables are created.

    Returns:
        (one row for each distinct image, in raw order, the rejections, the history of `add_names`).
    """
    disputed: list[Rejection] = []
    labelled = apply_label_log(raw_records.iter_record_batches(raw_dir), read_label_log(raw_dir), disputed)
    records = write_arrow(fill_group_and_time(labelled, rule), raw_records.RECORDS_SCHEMA, folder)
    records, history = add_names(add_ages(records, source_file.read_first_shards(raw_dir)), rule, folder)
    present = np.flatnonzero(~records["absent"].to_numpy())
    if len(present) < len(records):
        records = write_arrow(iter_slices(records, present), records.schema, folder)
    kept, rejections = find_duplicates(records, source_file.read_source_identity(raw_dir)["kind"])
    rejections += disputed
    if rule.by == "time":
        kept = reject_undated(records, kept, rejections)
    shards, offsets = (records[column].to_numpy()[kept] for column in ("shard", "offset"))
    kept = kept[np.lexsort((offsets, shards))]
    records = records.drop_columns(["absent", "reason", "detail", "label_table"])
    return write_arrow(iter_slices(records, kept), records.schema, folder), rejections, history


def apply_label_log(
    records: Iterable[pa.RecordBatch], log: LabelLog, rejections: list[Rejection]
) -> Iterator[pa.RecordBatch]:
    """Give images the labels that people gave them.

    Args:
        records: the ingested records.
        log: the label log.
        rejections: those of disputed images are appended to it.

    Yields:
        The records; disputed images are absent, so that they still count for the split of their group.
    """
    by_image, disputes = log.collect_labels(), log.collect_disputes()
    ids, disputed_ids = (pa.array(list(names), pa.string()) for names in (by_image, disputes))
    labels = pa.array(list(by_image.values()), pa.string())
    for batch in records:
        if len(log):
            given = labels.take(pc.index_in(batch["image_id"], value_set=ids))  # type: ignore[attr-defined]
            batch = _set_column(batch, "label", pc.coalesce(given, batch["label"]))  # type: ignore[attr-defined]
            is_disputed = pc.is_in(batch["image_id"], value_set=disputed_ids)  # type: ignore[attr-defined]
            held_out = batch.filter(pc.and_not(is_disputed, batch["absent"]))  # type: ignore[attr-defined]
            for row in held_out.select(["uri", "image_id"]).to_pylist():
                detail = disputes[row["image_id"]]
                rejections.append(Rejection(row["uri"], row["image_id"], "label_dispute", detail))
            batch = _set_column(batch, "absent", pc.or_(batch["absent"], is_disputed))  # type: ignore[attr-defined]
        yield batch


def _set_column(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    number = batch.schema.get_field_index(name)
    return batch.set_column(number, batch.schema.field(number), values)


def prefer_content_reasons(
    rejections: list[Rejection], raw_dir: Path, executor: BaseExecutor, max_pixels: int, timeout_s: float
) -> list[Rejection]:
    """Return the rejections with the reason of the content for files that cannot be decoded anyway.

    The same error page that was downloaded into every class is no question of labels; `convoy check`, which
    decodes every file, says so, too. Exact duplicates are left: a copy of each is decoded later.
    """
    undecoded = {
        rejection.image_id
        for rejection in rejections
        if rejection.reason in _REASONS_BEFORE_DECODING and rejection.image_id is not None
    }
    if not undecoded:
        return rejections
    contents = map_stream(
        read_image_bytes(raw_dir, sorted(undecoded)),
        partial(try_to_decode, max_pixels=max_pixels),
        timeout_s=timeout_s,
        executor=executor,
    )
    rejected = {image_id: result for image_id, result in contents if isinstance(result, Rejected)}
    return replace_reasons(rejections, _REASONS_BEFORE_DECODING, rejected)


def replace_reasons(
    rejections: list[Rejection], reasons: Collection[str], contents: Mapping[str, Rejected]
) -> list[Rejection]:
    """Return the rejections; of those with one of `reasons`, with that of their content, by image_id."""
    return [
        replace(rejection, reason=content.reason, detail=content.detail)
        if rejection.reason in reasons and (content := contents.get(rejection.image_id or ""))
        else rejection
        for rejection in rejections
    ]


def fill_group_and_time(records: Iterable[pa.RecordBatch], rule: SplitRule) -> Iterator[pa.RecordBatch]:
    """Fill in group and time from the uris, by the patterns of the rule, if the source gives none.

    Args:
        records: the ingested records.
        rule: the split rule.

    Yields:
        The records, completed.

    Raises:
        UserError: a pattern matches no uri at all.
    """
    patterns = {name: pattern for name, pattern in (("group", rule.group_pattern), ("time", rule.time)) if pattern}
    examples: dict[str, str] = {}  # by pattern, the first uri that it did not match
    unmatched = set(patterns)
    for batch in records:
        for name, pattern in patterns.items():
            uris = batch["uri"].to_pylist()
            matches = match_uris(pattern, uris)
            if any(matches):
                unmatched.discard(name)
            elif uris:
                examples.setdefault(name, uris[0])
            values = matches if name == "group" else [parse_time(match) for match in matches]
            filled = pc.coalesce(batch[name], pa.array(values, batch.schema.field(name).type))  # type: ignore[attr-defined]
            batch = _set_column(batch, name, filled)
        yield batch
    for name in patterns:
        if name in unmatched and name in examples:
            raise build_no_match_error(patterns[name], examples[name], name)


def reject_undated(records: pa.Table, kept: np.ndarray, rejections: list[Rejection]) -> np.ndarray:
    """Return the positions whose rows have a time, or a split from the source.

    Args:
        records: a table with the columns uri, image_id, time and split.
        kept: positions in it.
        rejections: the other rows are appended to it.
    """
    known = (records["time"].is_valid().to_numpy() | records["split"].is_valid().to_numpy())[kept]
    for row in take_rows(records.select(["uri", "image_id"]), kept[~known]).to_pylist():
        rejections.append(
            Rejection(row["uri"], row["image_id"], "undated", "no time; params.yaml: normalize.split.by")
        )
    return kept[known]
