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
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from imageset.atomic import replacing, replacing_folder, sync_file, write_text
from imageset.errors import UserError
from imageset.labels import count_names
from imageset.ledger import ROWS_AT_ONCE, Ledger, Place
from imageset.progress import Progress, Silent
from imageset.quality import Rejected
from imageset.words import count, count_kinds

if TYPE_CHECKING:  # of no use to those who read
    from imageset.sources import Source, SourcePicture

MAX_SHARD_BYTES = 256_000_000
RECORDS, SOURCE = "records.parquet", "source.json"
LEDGER = ".ledger.partial"
_BLOCK = 512  # tar's unit
_REPEATED = ["label", "group", "split", "shard", "absent", "reason"]

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),  # null where the bytes could not be read
        ("uri", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("time", pa.timestamp("us")),  # when the picture was taken, UTC; null where the source does not say
        ("shard", pa.int32()),
        ("offset", pa.int64()),  # of the picture's bytes in the shard
        ("size", pa.int64()),
        ("absent", pa.bool_()),
        ("reason", pa.string()),  # set where the bytes could not be read
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What an ingest found and did; all numbers are pictures except num_shards.

    num_new were packed, num_known were there already, num_absent have vanished from the source, num_unreadable
    could not be read; num_shards is the number of shards written; changed is False when no file was touched.
    """

    name: str
    kind: str
    num_pictures: int
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
        kinds = count_kinds(len(self.classes), self.multi_label)
        parts = [f"{count(self.num_pictures, 'picture')} in {kinds}", f"{self.num_new:,} new"]
        if self.num_absent:
            parts.append(f"{self.num_absent:,} no longer in the source")
        if self.num_unreadable:
            parts.append(f"{self.num_unreadable:,} unreadable")
        if not self.changed:
            parts[1] = "nothing new"
        from imageset.sources import passed_over_text

        return f"{self.name}: " + ", ".join(parts) + passed_over_text(self.passed_over)


def shard_name(number: int) -> str:
    """The file name of a raw shard."""
    return f"shard-{number:05d}.tar"


def ingest(
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
        from imageset.sources import open_source

        source = open_source(source)
    raw_dir, progress = Path(raw_dir), progress or Silent()
    identity: dict[str, Any] = {"name": name or source.name, "kind": source.kind}
    identity |= {"multi_label": True} if source.multi_label else {}
    if _identity(raw_dir) == identity:
        return _add(source, raw_dir, identity, raw_dir / RECORDS, progress)
    with replacing_folder(raw_dir) as fresh:
        summary = _add(source, fresh, identity, None, progress)
        _write_source(fresh, identity, [0])
    return summary


def read_source(raw_dir: str | Path) -> dict[str, str]:
    """Return {"name", "kind"} of what was ingested.

    Raises:
        UserError: nothing was.
    """
    identity = _identity(Path(raw_dir))
    if identity is None:
        raise UserError(f"{raw_dir}: holds no pictures yet; run `convoy run FOLDER`")
    return {"name": identity["name"], "kind": identity["kind"]}


def is_multi_label(raw_dir: str | Path) -> bool:
    """Whether a picture's label is a set of names (imageset.labels); UserError where nothing was ingested."""
    read_source(raw_dir)
    return bool((_identity(Path(raw_dir)) or {}).get("multi_label"))


def read_records(raw_dir: str | Path) -> pa.Table:
    """Return the table of SCHEMA, sorted by uri; rows of pictures that are `absent` included.

    Raises:
        UserError: there is none, or it is damaged.
    """
    read_source(raw_dir)
    return _read(Path(raw_dir))


def record_batches(raw_dir: str | Path) -> Iterator[pa.RecordBatch]:
    """The rows of read_records, some at a time."""
    read_source(raw_dir)
    try:
        with pq.ParquetFile(Path(raw_dir) / RECORDS) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield from _of_schema(pa.Table.from_batches([batch])).to_batches()
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise _damaged(Path(raw_dir)) from None


def first_shards(raw_dir: str | Path) -> list[int]:
    """The number of the first shard of each ingest that brought new bytes, ascending."""
    try:
        noted = json.loads((Path(raw_dir) / SOURCE).read_text()).get("first_shards")
    except (OSError, ValueError, AttributeError):
        return [0]
    return sorted({int(number) for number in noted}) if noted else [0]


def read_bytes(raw_dir: str | Path, image_ids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (image_id, bytes) in the order asked for.

    Raises:
        KeyError: an image_id that was never ingested.
        UserError: a shard is missing or shorter than its table says.
    """
    records = read_records(raw_dir)
    columns = (records[column].to_pylist() for column in ("image_id", "shard", "offset", "size"))
    places = {image_id: place for image_id, *place in zip(*columns, strict=True)}
    with ShardReader(Path(raw_dir)) as shards:
        for image_id in image_ids:
            yield image_id, shards.read(*places[image_id])


class ShardReader:
    """Random access to the bytes in raw shards."""

    def __init__(self, raw_dir: Path) -> None:
        self._raw_dir = raw_dir
        self._open: dict[int, BinaryIO] = {}

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """The bytes at a place; UserError when the shard does not hold them."""
        path = self._raw_dir / shard_name(shard)
        try:
            if shard not in self._open:
                self._open[shard] = path.open("rb")
            data = os.pread(self._open[shard].fileno(), size, offset)
        except FileNotFoundError:
            data = b""
        if len(data) != size:
            raise UserError(
                f"{path}: missing or cut short; restore it with `dvc checkout`, or ingest the source again"
            )
        return data

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


# ---- adding ----------------------------------------------------------------------------------------------------


def _add(
    source: Source, folder: Path, identity: dict[str, Any], earlier: Path | None, progress: Progress
) -> IngestSummary:
    with _open_ledger(folder, earlier) as ledger:
        _remove_leftovers(folder, ledger.shards)
        progress.begin(total=len(source))
        labels: Counter[str | None] = Counter()
        num_unreadable = 0
        with _Packer(folder, first=max(ledger.shards, default=-1) + 1) as packer:
            for row in (_row(picture, ledger, packer, progress) for picture in source):
                if row is not None:
                    ledger.add(row)
                    labels[row["label"]] += 1
                    num_unreadable += "image_id" not in row
        if packer.num_written and (folder / SOURCE).is_file():
            _write_source(folder, identity, [*first_shards(folder), max(ledger.shards, default=-1) + 1])
        progress.end()
        changed = ledger.differs()
        if changed:
            with replacing(folder / RECORDS) as temporary:
                num_absent = ledger.write(temporary, compression="zstd", use_dictionary=_REPEATED)
        else:
            num_absent = ledger.num_absent()
    return IngestSummary(
        **identity,
        num_pictures=labels.total(),
        num_new=ledger.num_new,
        num_known=ledger.num_known,
        num_absent=num_absent,
        num_unreadable=num_unreadable,
        num_shards=packer.num_written,
        changed=changed,
        classes=dict(sorted(count_names(labels.elements(), source.multi_label).items())),
        passed_over=dict(sorted(source.passed_over.items())),
    )


def _open_ledger(folder: Path, earlier: Path | None) -> Ledger:
    try:
        return Ledger(folder / LEDGER, SCHEMA, earlier)
    except (OSError, KeyError, ValueError, pa.ArrowException):
        (folder / LEDGER).unlink(missing_ok=True)
        raise _damaged(folder) from None


def _row(picture: SourcePicture, ledger: Ledger, packer: _Packer, progress: Progress) -> dict[str, Any] | None:
    """One row of the table; the bytes go to a shard unless they are in one. None for a file that has vanished."""
    row: dict[str, Any] = {
        "uri": picture.uri,
        "label": picture.label,
        "group": picture.group,
        "split": picture.split,
        "time": picture.time,
        "absent": False,
    }
    progress.advance()
    try:
        data = picture.read()
    except FileNotFoundError:
        return None
    except Rejected as rejected:
        return row | {"reason": rejected.reason, "detail": rejected.detail}
    digest = hashlib.sha256(data)
    place = ledger.find(digest.digest())
    if place is None:
        place = packer.pack(f"{digest.hexdigest()}{_ending(picture.uri)}", data)
        ledger.put(digest.digest(), place)
    return row | {"image_id": digest.hexdigest()} | place._asdict()


def _ending(uri: str) -> str:
    from imageset.sources import PICTURE_ENDINGS

    ending = os.path.splitext(uri)[1].lower()
    return ending if ending in PICTURE_ENDINGS else ".bin"


def _write_source(folder: Path, identity: dict[str, str], first_shards: list[int]) -> None:
    note = identity | {"first_shards": sorted(set(first_shards))}
    write_text(folder / SOURCE, json.dumps(note, indent=1, sort_keys=True) + "\n")


def _remove_leftovers(folder: Path, shards: set[int]) -> None:
    """Remove what a killed ingest left: temporary files, and shards that no row points to."""
    known = {shard_name(number) for number in shards} | {LEDGER}
    for file in folder.iterdir():
        if file.name not in known and (file.name.endswith(".partial") or file.suffix == ".tar"):
            file.unlink()


class _Packer:
    """Writes shards one after the other, each under a temporary name until it is whole."""

    def __init__(self, folder: Path, first: int) -> None:
        self._folder, self._number = folder, first
        self._file: BinaryIO | None = None
        self._size = 0
        self.num_written = 0

    def pack(self, member: str, data: bytes) -> Place:
        """Append one member, and say where its bytes lie."""
        header = _header(member, len(data))
        padding = -len(data) % _BLOCK
        length = len(header) + len(data) + padding
        if self._file is not None and self._size + length + 2 * _BLOCK > MAX_SHARD_BYTES:
            self._finish()
        if self._file is None:
            self._file, self._size = self._partial().open("wb"), 0
        place = Place(self._number, self._size + len(header), len(data))
        self._file.write(header)
        self._file.write(data)
        self._file.write(bytes(padding))
        self._size += length
        return place

    def _partial(self) -> Path:
        return self._folder / f".{shard_name(self._number)}.partial"

    def _finish(self) -> None:
        assert self._file is not None
        self._file.write(bytes(2 * _BLOCK))  # the end of a tar archive
        self._file.close()
        sync_file(self._partial())
        os.replace(self._partial(), self._folder / shard_name(self._number))
        self._file, self._number, self.num_written = None, self._number + 1, self.num_written + 1

    def __enter__(self) -> _Packer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if error is None:
            self._finish()
        else:
            self._file.close()
            self._partial().unlink(missing_ok=True)


def _header(member: str, size: int) -> bytes:
    info = tarfile.TarInfo(member)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


# ---- reading ---------------------------------------------------------------------------------------------------


def _identity(raw_dir: Path) -> dict[str, Any] | None:
    """{"name", "kind"} and, where it is so, "multi_label"; None where nothing was ingested.

    Raises:
        UserError: something else lies there.
    """
    if not (raw_dir / SOURCE).is_file():
        foreign = [] if not raw_dir.is_dir() else [file for file in raw_dir.iterdir() if file.name[0] != "."]
        if foreign or (raw_dir.exists() and not raw_dir.is_dir()):
            raise UserError(
                f"{raw_dir}: holds {foreign[0].name if foreign else 'a file'} but no {SOURCE}; "
                "move it away, this folder is written by ingest alone"
            )
        return None
    try:
        identity = json.loads((raw_dir / SOURCE).read_text())
        several = {"multi_label": True} if identity.get("multi_label") else {}
        return {"name": str(identity["name"]), "kind": str(identity["kind"])} | several
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{raw_dir / SOURCE}: damaged; remove {raw_dir} and ingest the source again") from None


def _read(raw_dir: Path) -> pa.Table:
    path = raw_dir / RECORDS
    try:
        return _of_schema(pq.ParquetFile(path).read())
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise _damaged(raw_dir) from None


def _of_schema(table: pa.Table) -> pa.Table:
    if "time" not in table.column_names:  # of an ingest before there were times
        table = table.append_column("time", pa.nulls(len(table), pa.timestamp("us")))
    return table.select(SCHEMA.names).cast(SCHEMA)


def _damaged(raw_dir: Path) -> UserError:
    return UserError(
        f"{raw_dir / RECORDS}: missing or damaged; restore it with `dvc checkout`, "
        f"or remove {raw_dir} and ingest the source again"
    )
