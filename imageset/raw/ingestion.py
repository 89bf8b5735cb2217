"""The raw data: every picture's own bytes in immutable tar shards, and one table that says what they are.

data/raw/shard-00000.tar ...   WebDataset-style: members <image_id>.<ending>, at most 256 MB each; immutable
data/raw/records.parquet       one row a (uri, image_id) ever seen; `absent` where the source no longer has it
data/raw/source.json           the source's name and kind; "multi_label": true where a picture has several labels;
                               "first_shards": with which shard each ingest began

A second ingest of the same source packs only new bytes; where nothing changed no file is touched. New shards
appear whole, by rename, before the table that points to them; what a killed ingest left behind is removed by the
next one.
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


BUFFER_FILE = ".ledger.partial"
_DICTIONARY_COLUMNS = ["label", "group", "split", "shard", "absent", "reason"]


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What an ingest found and did; all numbers are pictures except num_shards.

    num_new were packed, num_known were there already, num_absent have vanished from the source, num_unreadable
    could not be read; num_shards is the number of shards written; changed is False when no file was touched.
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
        """One line for a person."""
        kinds = format_class_count(len(self.classes), self.multi_label)
        parts = [f"{format_count(self.num_images, 'picture')} in {kinds}", f"{self.num_new:,} new"]
        if self.num_absent:
            parts.append(f"{self.num_absent:,} no longer in the source")
        if self.num_unreadable:
            parts.append(f"{self.num_unreadable:,} unreadable")
        if not self.changed:
            parts[1] = "nothing new"
        from imageset.sources.base import format_passed_over

        return f"{self.name}: " + ", ".join(parts) + format_passed_over(self.passed_over)


def ingest_source(
    source: str | os.PathLike[str] | Source,
    raw_dir: str | Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> IngestSummary:
    """Bring `raw_dir` up to the source. The folder is started anew when it holds another source (name or kind), or
    when pictures have several labels now and had one, or the other way round.

    Raises:
        UserError: the source cannot be used, or raw_dir holds something else.
        OSError: reading the source failed in a way that trying again may cure; nothing is half-written.
    """
    if isinstance(source, (str, os.PathLike)):
        from imageset.sources.factory import open_source

        source = open_source(source)
    raw_dir, progress = Path(raw_dir), progress or SilentProgress()
    identity: dict[str, Any] = {"name": name or source.name, "kind": source.kind}
    identity |= {"multi_label": True} if source.multi_label else {}
    if find_source_identity(raw_dir) == identity:
        return _ingest_into(source, raw_dir, identity, raw_dir / RECORDS_FILE, progress)
    with replace_folder(raw_dir) as fresh:
        summary = _ingest_into(source, fresh, identity, None, progress)
        _write_source_file(fresh, identity, [0])
    return summary


# ---- adding ----------------------------------------------------------------------------------------------------


def _ingest_into(
    source: Source, folder: Path, identity: dict[str, Any], earlier: Path | None, progress: Progress
) -> IngestSummary:
    with _open_buffer(folder, earlier) as ledger:
        _remove_leftovers(folder, ledger.shards)
        progress.begin(total=len(source))
        labels: Counter[str | None] = Counter()
        num_unreadable = 0
        with RawShardWriter(folder, first=max(ledger.shards, default=-1) + 1) as packer:
            for row in (_build_row(picture, ledger, packer, progress) for picture in source):
                if row is not None:
                    ledger.add_row(row)
                    labels[row["label"]] += 1
                    num_unreadable += "image_id" not in row
        if packer.num_written and (folder / SOURCE_FILE).is_file():
            _write_source_file(folder, identity, [*read_first_shards(folder), max(ledger.shards, default=-1) + 1])
        progress.end()
        changed = ledger.has_changed()
        if changed:
            with replace_file(folder / RECORDS_FILE) as temporary:
                num_absent = ledger.write(temporary, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS)
        else:
            num_absent = ledger.num_absent()
    return IngestSummary(
        **identity,
        num_images=labels.total(),
        num_new=ledger.num_new,
        num_known=ledger.num_known,
        num_absent=num_absent,
        num_unreadable=num_unreadable,
        num_shards=packer.num_written,
        changed=changed,
        classes=dict(sorted(count_labels(labels.elements(), source.multi_label).items())),
        passed_over=dict(sorted(source.passed_over.items())),
    )


def _open_buffer(folder: Path, earlier: Path | None) -> DiskBuffer:
    try:
        return DiskBuffer(folder / BUFFER_FILE, RECORDS_SCHEMA, earlier)
    except (OSError, KeyError, ValueError, pa.ArrowException):
        (folder / BUFFER_FILE).unlink(missing_ok=True)
        raise build_damaged_error(folder) from None


def _build_row(
    image: SourceImage, buffer: DiskBuffer, writer: RawShardWriter, progress: Progress
) -> dict[str, Any] | None:
    """One row of the table; the bytes go to a shard unless they are in one. None for a file that has vanished."""
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
    place = buffer.find_location(digest.digest())
    if place is None:
        place = writer.add(f"{digest.hexdigest()}{_choose_extension(image.uri)}", data)
        buffer.add_location(digest.digest(), place)
    return row | {"image_id": digest.hexdigest()} | place._asdict()


def _choose_extension(uri: str) -> str:
    from imageset.sources.files import IMAGE_EXTENSIONS

    ending = os.path.splitext(uri)[1].lower()
    return ending if ending in IMAGE_EXTENSIONS else ".bin"


def _write_source_file(folder: Path, identity: dict[str, str], first_shards: list[int]) -> None:
    note = identity | {"first_shards": sorted(set(first_shards))}
    write_text(folder / SOURCE_FILE, json.dumps(note, indent=1, sort_keys=True) + "\n")


def _remove_leftovers(folder: Path, shards: set[int]) -> None:
    """Remove what a killed ingest left: temporary files, and shards that no row points to."""
    known = {name_raw_shard(number) for number in shards} | {BUFFER_FILE}
    for file in folder.iterdir():
        if file.name not in known and (file.name.endswith(".partial") or file.suffix == ".tar"):
            file.unlink()
