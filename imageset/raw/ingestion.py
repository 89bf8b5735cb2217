"""Ingestion: store the original bytes of every image in immutable tar shards, and describe them in one table.

data/raw/shard-00000.tar ...   WebDataset-style: members <image_id>.<extension>, at most 256 MB each; immutable
data/raw/records.parquet       one row per (uri, image_id) ever seen; `absent` if the source no longer has it
data/raw/source.json           the source's name and kind; "multi_label": true for a multi-label source;
                               "first_shards": the first shard of each ingest

A second ingest of the same source stores only new bytes; if nothing changed, no file is touched. New shards are
renamed into place when they are complete, before the table that points to them; the next ingest removes the files
that a killed one left.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imageset.labels import count_labels
from imageset.raw.disk_buffer import DiskBuffer
from imageset.raw.records import (
    RECORDS_FILE,
    RECORDS_SCHEMA,
    SOURCE_FILE,
    build_damaged_error,
    find_source_identity,
    read_first_shards,
)
from imageset.raw.shards import RawShardWriter, name_raw_shard
from imageset.rejections import Rejected
from imageset.utils.atomic_write import replace_file, replace_folder, write_text
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.text import format_class_count, format_count

if TYPE_CHECKING:
    from imageset.sources.base import Source, SourceImage


BUFFER_FILE = ".buffer.partial"
_DICTIONARY_COLUMNS = ["label", "group", "split", "shard", "absent", "reason"]


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """The result of an ingest.

    Attributes:
        name: slug of the source's name.
        kind: kind of the source.
        num_images: number of images in the source.
        num_new: number of images whose bytes were stored now.
        num_known: number of images whose bytes were stored already.
        num_absent: number of rows of images that the source no longer has.
        num_unreadable: number of images that could not be read.
        num_shards: number of shards written.
        changed: False if no file was touched.
        multi_label: whether an image's label is a set of names.
        classes: number of images of each class (of each label name).
        passed_over: number of files that are not images, by cause.
    """

    name: str
    kind: str
    num_images: int
    num_new: int
    num_known: int
    num_absent: int
    num_unreadable: int
    num_shards: int
    changed: bool
    multi_label: bool = False
    classes: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """Return one line for the user."""
        kinds = format_class_count(len(self.classes), self.multi_label)
        facts = [f"{format_count(self.num_images, 'picture')} in {kinds}", f"{self.num_new:,} new"]
        if self.num_absent:
            facts.append(f"{self.num_absent:,} no longer in the source")
        if self.num_unreadable:
            facts.append(f"{self.num_unreadable:,} unreadable")
        if not self.changed:
            facts[1] = "nothing new"
        from imageset.sources.base import format_passed_over

        return f"{self.name}: " + ", ".join(facts) + format_passed_over(self.passed_over)


def ingest_source(
    source: str | os.PathLike[str] | Source,
    raw_dir: str | Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    start_anew: bool = False,
) -> IngestSummary:
    """Update `raw_dir` to the current state of a source.

    The folder is started anew if it holds another source (name or kind), or if the source has become
    multi-label or is no longer multi-label.

    Args:
        source: an open source, or a path, URL or name to open.
        raw_dir: the folder of the raw data.
        name: name of the dataset; None: the source's name.
        progress: reports the number of images read.
        start_anew: whether nothing of an earlier source is kept.

    Raises:
        UserError: the source cannot be used, or `raw_dir` holds other files.
        OSError: reading the source failed with an error that may be transient; no file is half-written.
    """
    if isinstance(source, (str, os.PathLike)):
        from imageset.sources.factory import open_source

        source = open_source(source)
    raw_dir, progress = Path(raw_dir), progress or SilentProgress()
    identity: dict[str, Any] = {"name": name or source.name, "kind": source.kind}
    identity |= {"multi_label": True} if source.multi_label else {}
    if find_source_identity(raw_dir) == identity and not start_anew:
        return _ingest_into(source, raw_dir, identity, raw_dir / RECORDS_FILE, progress)
    with replace_folder(raw_dir) as fresh:
        summary = _ingest_into(source, fresh, identity, None, progress)
        _write_source_file(fresh, identity, [0])
    return summary


def _ingest_into(
    source: Source, folder: Path, identity: dict[str, Any], previous: Path | None, progress: Progress
) -> IngestSummary:
    with _open_buffer(folder, previous) as buffer:
        _remove_leftovers(folder, buffer.shards)
        progress.begin(total=len(source))
        labels: Counter[str | None] = Counter()
        num_unreadable = 0
        with RawShardWriter(folder, first=max(buffer.shards, default=-1) + 1) as writer:
            for row in (_build_row(image, buffer, writer, progress) for image in source):
                if row is not None:
                    buffer.add_row(row)
                    labels[row["label"]] += 1
                    num_unreadable += "image_id" not in row
        if writer.num_written and (folder / SOURCE_FILE).is_file():
            _write_source_file(folder, identity, [*read_first_shards(folder), max(buffer.shards, default=-1) + 1])
        progress.end()
        changed = buffer.has_changed()
        if changed:
            with replace_file(folder / RECORDS_FILE) as temporary:
                num_absent = buffer.write(temporary, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS)
        else:
            num_absent = buffer.count_absent()
    return IngestSummary(
        **identity,
        num_images=labels.total(),
        num_new=buffer.num_new,
        num_known=buffer.num_known,
        num_absent=num_absent,
        num_unreadable=num_unreadable,
        num_shards=writer.num_written,
        changed=changed,
        classes=dict(sorted(count_labels(labels.elements(), source.multi_label).items())),
        passed_over=dict(sorted(source.passed_over.items())),
    )


def _open_buffer(folder: Path, previous: Path | None) -> DiskBuffer:
    try:
        return DiskBuffer(folder / BUFFER_FILE, RECORDS_SCHEMA, previous)
    except (OSError, KeyError, ValueError, pa.ArrowException):
        (folder / BUFFER_FILE).unlink(missing_ok=True)
        raise build_damaged_error(folder) from None


def _build_row(
    image: SourceImage, buffer: DiskBuffer, writer: RawShardWriter, progress: Progress
) -> dict[str, Any] | None:
    """Build the row of an image and store its bytes if they are new; None if the file has disappeared."""
    row: dict[str, Any] = {
        "uri": image.uri,
        "label": image.label,
        "group": image.group,
        "split": image.split,
        "time": image.time,
        "absent": False,
    }
    progress.advance()
    try:
        data = image.read()
    except FileNotFoundError:
        return None
    except Rejected as rejected:
        return row | {"reason": rejected.reason, "detail": rejected.detail}
    digest = hashlib.sha256(data)
    location = buffer.find_location(digest.digest())
    if location is None:
        location = writer.add(f"{digest.hexdigest()}{_choose_extension(image.uri)}", data)
        buffer.add_location(digest.digest(), location)
    return row | {"image_id": digest.hexdigest()} | location._asdict()


def _choose_extension(uri: str) -> str:
    from imageset.sources.files import IMAGE_EXTENSIONS

    extension = os.path.splitext(uri)[1].lower()
    return extension if extension in IMAGE_EXTENSIONS else ".bin"


def _write_source_file(folder: Path, identity: dict[str, str], first_shards: list[int]) -> None:
    content = identity | {"first_shards": sorted(set(first_shards))}
    write_text(folder / SOURCE_FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _remove_leftovers(folder: Path, shards: set[int]) -> None:
    """Remove the files that a killed ingest left: temporary files, and shards that no row points to."""
    known = {name_raw_shard(number) for number in shards} | {BUFFER_FILE}
    for file in folder.iterdir():
        if file.name not in known and (file.name.endswith(".partial") or file.suffix == ".tar"):
            file.unlink()
