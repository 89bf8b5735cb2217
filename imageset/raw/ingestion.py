"""Ingestion: store the original bytes of every image in immutable tar shards, and describe them in one table.

data/raw/shard-00000.tar ...   WebDataset-style: members <image_id>.<extension>, at most 256 MB each; immutable
data/raw/records.parquet       one row per (uri, image_id) ever seen; `absent` if the source no longer has it
data/raw/source.json           the source's name and kind; "multi_label": true for a multi-label source;
                               "first_shards": the first shard of each ingest; "digests": the SHA-256 of each other
                               file; "sha256": its own
data/raw/label_log.jsonl       the labels that people gave (imageset.raw.label_log), if there are any

A second ingest of the same source stores only new bytes; if nothing changed, no file is touched. New shards are
renamed into place when they are complete, before the table that points to them, which takes its place together
with source.json; the next ingest removes the files that a killed one left. The images of a shard that is missing
or damaged are stored again. Images that a label table added (imageset.raw.label_import) stay, whatever the source
has. If another source takes the place of the former one, they are left out; labels of people count on for images
that are still there, if the new source has their classes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from imageset.exceptions import UserError
from imageset.labels import count_labels, parse_labels
from imageset.raw.damage import digest_stored_files, find_lost_shards
from imageset.raw.disk_buffer import DiskBuffer, LostImage
from imageset.raw.label_log import (
    LABEL_LOG_FILE,
    SOURCE_REPLACED,
    LabelLog,
    format_line,
    read_label_log,
    read_label_log_bytes,
)
from imageset.raw.records import RECORDS_FILE, RECORDS_SCHEMA, iter_record_batches
from imageset.raw.replacement import finish_replacement, replace_files
from imageset.raw.shards import RawShardReader, RawShardWriter, name_raw_shard
from imageset.raw.source_file import (
    build_damaged_error,
    check_raw_file,
    find_source_identity,
    read_first_shards,
    write_source_file,
)
from imageset.rejections import FORGOTTEN, Rejected
from imageset.utils.atomic_write import replace_file, replace_folder, write_bytes
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.text import format_class_count, format_count
from imageset.utils.timestamps import format_utc_now

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
        num_forgotten: number of images that are left out since `convoy forget` removed them.
        num_shards: number of shards written.
        changed: False if no file was touched.
        multi_label: whether an image's label is a set of names.
        classes: number of images of each class (of each label name).
        passed_over: number of files that are not images, by cause.
        num_added: number of images that label tables added, which are not in the source.
        num_labeled: number of images whose label people gave.
        num_overruled: number of images whose label in the source changed after people gave them another one, which
            counts.
        num_labels_dropped: number of images whose label of people counts no longer, as the source is another.
        lost_shards: names of the shards that were missing or damaged, so that their images were stored again.
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
    num_added: int = 0
    num_labeled: int = 0
    num_overruled: int = 0
    num_labels_dropped: int = 0
    num_forgotten: int = 0
    lost_shards: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for the user."""
        kinds = format_class_count(len(self.classes), self.multi_label)
        facts = [f"{format_count(self.num_images, 'picture')} in {kinds}", f"{self.num_new:,} new"]
        if self.num_absent:
            facts.append(f"{self.num_absent:,} no longer in the source")
        if self.num_unreadable:
            facts.append(f"{self.num_unreadable:,} unreadable")
        if self.num_forgotten:
            facts.append(f"{self.num_forgotten:,} forgotten and left out")
        if not self.changed:
            facts[1] = "nothing new"
        if self.num_added:
            facts.append(f"{self.num_added:,} of label tables kept")
        if self.num_labeled:
            facts.append(f"{format_count(self.num_labeled, 'label')} of people kept")
        if self.num_overruled:
            facts.append(f"{self.num_overruled:,} relabelled in the source, where the labels of people count")
        if self.num_labels_dropped:
            facts.append(
                f"{format_count(self.num_labels_dropped, 'label')} of people left out, whose pictures or classes "
                "the source does not have"
            )
        from imageset.sources.base import format_passed_over

        return f"{self.name}: " + ", ".join(facts) + format_passed_over(self.passed_over)


def ingest_source(
    source: str | os.PathLike[str] | Source,
    raw_dir: str | Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    start_anew: bool = False,
    forgotten: Collection[str] = frozenset(),
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
        forgotten: SHA-256 of images that are left out, with the reason "forgotten".

    Raises:
        UserError: the source cannot be used, or `raw_dir` holds other files.
        OSError: reading the source failed with an error that may be transient; no file is half-written.
    """
    if isinstance(source, (str, os.PathLike)):
        from imageset.sources.factory import open_source

        source = open_source(source)
    raw_dir, progress = Path(raw_dir), progress or SilentProgress()
    finish_replacement(raw_dir)
    identity: dict[str, Any] = {"name": name or source.name, "kind": source.kind}
    identity |= {"multi_label": True} if source.multi_label else {}
    former = find_source_identity(raw_dir)
    log = read_label_log(raw_dir)
    if former == identity and not start_anew:
        records = raw_dir / RECORDS_FILE
        return _ingest_into(source, raw_dir, identity, records, progress, log=log, forgotten=forgotten)[0]
    is_replaced = start_anew or former is None or former | {"kind": source.kind} != identity
    with replace_folder(raw_dir) as fresh:
        added = _iter_added_images(raw_dir) if len(log) and not is_replaced else ()
        summary, digests = _ingest_into(
            source, fresh, identity, None, progress, added, log=log, forgotten=forgotten
        )
        write_source_file(fresh, identity, [0], digests)
        if not is_replaced:
            _copy_label_log(raw_dir, fresh)
        elif former is not None:
            num_dropped = _carry_label_log(log, raw_dir, fresh, source)
            summary = replace(summary, num_labeled=len(log), num_overruled=0, num_labels_dropped=num_dropped)
        if (fresh / LABEL_LOG_FILE).is_file():
            write_source_file(fresh, identity, [0], digests)
    return summary


def _ingest_into(
    source: Source,
    folder: Path,
    identity: dict[str, Any],
    previous: Path | None,
    progress: Progress,
    added: Iterable[tuple[dict[str, Any], bytes]] = (),
    log: LabelLog | None = None,
    forgotten: Collection[str] = frozenset(),
) -> tuple[IngestSummary, dict[str, str]]:
    """Update a folder to the state of a source; source.json is written only if the folder has it already.

    Args:
        source: the source.
        folder: the folder to write.
        identity: the content of source.json.
        previous: the table records.parquet that holds the images so far, or None.
        progress: reports the number of images read.
        added: row and bytes of images to keep that are not in the source; those of `previous` are kept anyway.
        log: the labels that people gave.
        forgotten: SHA-256 of images that are left out.

    Returns:
        The result, and the digests of the new shards by name.
    """
    log = log or LabelLog()
    lost = set() if previous is None else find_lost_shards(folder)
    with open_buffer(folder, previous, is_added_image, lost) as buffer:
        remove_leftovers(folder, buffer.shards | lost)
        progress.begin(total=len(source))
        labels: Counter[str | None] = Counter()
        num_unreadable = num_overruled = num_forgotten = 0
        first_shard = max(buffer.shards | lost, default=-1) + 1
        with RawShardWriter(folder, first=first_shard) as writer:
            for row in (_build_row(image, buffer, writer, progress, forgotten) for image in source):
                if row is not None:
                    buffer.add_row(row)
                    labels[row["label"]] += 1
                    is_forgotten = row.get("reason") == FORGOTTEN
                    num_forgotten += is_forgotten
                    num_unreadable += "image_id" not in row and not is_forgotten
                    num_overruled += log.overrules(row.get("image_id"), row["label"])
            for row, data in added:
                buffer.keep_row(row | store_bytes(data, row["uri"], buffer, writer))
        progress.end()
        changed = buffer.has_changed()
        if not changed:
            num_absent = buffer.count_absent()
        elif previous is None:
            with replace_file(folder / RECORDS_FILE) as temporary:
                num_absent = write_records(buffer, temporary)
        else:
            with replace_files(folder) as staged:
                num_absent = write_records(buffer, staged / RECORDS_FILE)
                digests = digest_stored_files(folder, buffer.shards, [LABEL_LOG_FILE]) | writer.digests
                new_shards = [first_shard] if writer.digests else []
                write_source_file(staged, identity, [*read_first_shards(folder), *new_shards], digests)
            remove_leftovers(folder, buffer.shards | {first_shard + n for n in range(len(writer.digests))})
    summary = IngestSummary(
        **identity,
        num_images=labels.total(),
        num_new=buffer.num_new,
        num_known=buffer.num_known,
        num_absent=num_absent,
        num_unreadable=num_unreadable,
        num_shards=len(writer.digests),
        changed=changed,
        classes=dict(sorted(count_labels(labels.elements(), source.multi_label).items())),
        passed_over=dict(sorted(source.passed_over.items())),
        num_added=buffer.num_kept,
        num_labeled=len(log),
        num_overruled=num_overruled,
        num_forgotten=num_forgotten,
        lost_shards=tuple(map(name_raw_shard, sorted(lost))),
    )
    return summary, writer.digests


def is_added_image(row: dict[str, Any]) -> bool:
    """Return whether a row of the records is an image that a label table added."""
    return row["label_table"] is not None


def _iter_added_images(raw_dir: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield row and bytes of the images that label tables added."""
    with RawShardReader(raw_dir) as shards:
        for batch in iter_record_batches(raw_dir):
            for row in batch.filter(batch["label_table"].is_valid()).to_pylist():
                yield row, shards.read(row["shard"], row["offset"], row["size"])


def _copy_label_log(raw_dir: Path, fresh: Path) -> None:
    if (raw_dir / LABEL_LOG_FILE).is_file():
        shutil.copyfile(raw_dir / LABEL_LOG_FILE, fresh / LABEL_LOG_FILE)


def _carry_label_log(log: LabelLog, raw_dir: Path, fresh: Path, source: Source) -> int:
    """Copy the label log to the folder of another source, with a line about the labels that count no longer.

    Returns:
        How many images have such labels; they are removed from `log`, too.
    """
    present = {
        image_id for batch in iter_record_batches(fresh) for image_id in batch["image_id"].to_pylist() if image_id
    }
    dropped = []
    for image_id, labels in log.iter_images():
        given = {label for _, label in labels.by_annotator.values()}
        names = {name for label in given for name in (parse_labels(label) if source.multi_label else [label])}
        if image_id not in present or not names <= source.classes.keys():
            dropped.append(image_id)
    log.drop(dropped)
    _copy_label_log(raw_dir, fresh)
    if dropped:
        line = format_line({"time": format_utc_now(), "event": SOURCE_REPLACED, "dropped": sorted(dropped)})
        write_bytes(fresh / LABEL_LOG_FILE, read_label_log_bytes(fresh) + line.encode())
    return len(dropped)


def open_buffer(
    folder: Path, previous: Path | None, is_kept: Callable[[dict[str, Any]], bool], lost: Collection[int] = ()
) -> DiskBuffer:
    """Return the buffer of an ingest into a folder.

    Args:
        folder: the folder.
        previous: the table records.parquet that holds the images so far, or None.
        is_kept: whether a row of it stays as it is.
        lost: numbers of the shards whose images have to be stored again.

    Raises:
        UserError: the table is damaged, or an image that stays is in a lost shard.
    """
    if previous is not None:
        check_raw_file(folder, RECORDS_FILE)
    try:
        return DiskBuffer(folder / BUFFER_FILE, RECORDS_SCHEMA, previous, is_kept, lost)
    except LostImage as error:
        (folder / BUFFER_FILE).unlink(missing_ok=True)
        raise UserError(
            f"{folder / name_raw_shard(error.shard)}: missing or damaged, and {error.uri} is only there, which a "
            "label table added; put the file back from another copy of the project, or give up what tables added: "
            "`convoy run SOURCE --replace-source`"
        ) from None
    except (OSError, KeyError, ValueError, pa.ArrowException):
        (folder / BUFFER_FILE).unlink(missing_ok=True)
        raise build_damaged_error(folder / RECORDS_FILE) from None


def _build_row(
    image: SourceImage,
    buffer: DiskBuffer,
    writer: RawShardWriter,
    progress: Progress,
    forgotten: Collection[str],
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
    if forgotten and hashlib.sha256(data).hexdigest() in forgotten:
        return row | {"reason": FORGOTTEN, "detail": ""}
    return row | store_bytes(data, image.uri, buffer, writer)


def write_records(buffer: DiskBuffer, path: Path) -> int:
    """Write the table of a buffer as records.parquet; return how many of its rows are absent."""
    return buffer.write(path, compression="zstd", use_dictionary=_DICTIONARY_COLUMNS)


def store_bytes(data: bytes, uri: str, buffer: DiskBuffer, writer: RawShardWriter) -> dict[str, Any]:
    """Store the bytes of an image if they are new; return its image_id and their location."""
    digest = hashlib.sha256(data)
    location = buffer.find_location(digest.digest())
    if location is None:
        location = writer.add(f"{digest.hexdigest()}{_choose_extension(uri)}", data)
        buffer.add_location(digest.digest(), location)
    return {"image_id": digest.hexdigest()} | location._asdict()


def _choose_extension(uri: str) -> str:
    from imageset.sources.files import IMAGE_EXTENSIONS

    extension = os.path.splitext(uri)[1].lower()
    return extension if extension in IMAGE_EXTENSIONS else ".bin"


def remove_leftovers(folder: Path, shards: set[int]) -> None:
    """Remove the files that a killed ingest left: temporary files, and shards that no row points to."""
    known = {name_raw_shard(number) for number in shards} | {BUFFER_FILE}
    for file in folder.iterdir():
        if file.name not in known and (file.name.endswith(".partial") or file.suffix == ".tar"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
