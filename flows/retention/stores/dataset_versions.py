"""Find the objects of DVC that hold pictures, in every version that its cache and its remotes still have.

A version of data/raw or data/normalized is a list of files (".dir"), so versions that no commit names are found,
too. Reports are found through the stages that wrote them: in dvc.lock, in its versions in git,
and in DVC's run cache.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from flows.project.paths import NORMALIZED
from flows.project.project import Project
from flows.retention.stores.object_store import (
    FOLDER_SUFFIX,
    ObjectStore,
    find_bytes,
    find_cache_folder,
    read_folder,
)
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from imageset.raw.label_log import LABEL_LOG_FILE
from imageset.raw.records import RECORDS_FILE
from imageset.raw.shards import name_raw_shard
from imageset.store.format import (
    DATASET_MANIFEST_FILE,
    INDEX_FILE,
    LEAKS_FILE,
    NPY_HEADER_BYTES,
    PEAKS_FILE,
    REJECTED_FILE,
    name_pixel_shard,
)
from lightning_modules.bundle import REFERENCE_FILE

if TYPE_CHECKING:
    import pyarrow as pa

PAGE_SUFFIX = ".html"
# Files of reports that show or name single pictures.
PICTURE_FILES = ("worst_mistakes.png", "label_issues.csv")
SHOWN_FOLDER = "sees"  # of the page about what the network sees; its PNG files show pictures
RUN_CACHE = "runs"


@dataclass
class Holdings:
    """The places of pictures in DVC's cache and remotes.

    Attributes:
        objects: ids of objects that hold bytes, pixels or thumbnails.
        tables: ids of tables that name the pictures; removed last, since the others are found through them.
        folders: the versions of data/raw and data/normalized that hold one.
        fingerprints: of the datasets among them.
        known: the versions of data/normalized whose index was read.
        encoded: (object, offset, size) of the pictures' bytes.
        pixels: (object, offset, size) of their decoded pixels.
    """

    objects: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    fingerprints: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    encoded: list[tuple[str, int, int]] = field(default_factory=list)
    pixels: list[tuple[str, int, int]] = field(default_factory=list)


def find_holdings(
    project: Project, stores: list[ObjectStore], image_ids: Collection[str], folders: Collection[str] = ()
) -> Holdings:
    """Find the objects that hold pictures.

    Args:
        project: the project.
        stores: the cache and the remotes.
        image_ids: SHA-256 of each picture.
        folders: versions of data/normalized that are known to hold one, though their tables may be gone.
    """
    holdings = Holdings(folders=set(folders))
    for folder in sorted({folder for store in stores for folder in store.list_folders()}):
        files = read_folder(stores, folder)
        if RECORDS_FILE in files:
            _look_into_raw(folder, files, stores, image_ids, holdings)
        elif INDEX_FILE in files and DATASET_MANIFEST_FILE in files:
            _look_into_dataset(folder, files, stores, image_ids, holdings)
        elif REFERENCE_FILE in files:
            sample = find_bytes(stores, files[REFERENCE_FILE])
            if sample is not None and samples_picture(sample, image_ids):
                holdings.objects.add(files[REFERENCE_FILE])
    for lock in iter_stage_locks(project, find_cache_folder(stores)):
        if any(str(dep.get("md5")) in holdings.folders for dep in lock.get("deps") or []):
            _add_pages(lock, stores, holdings)
    return holdings


def _look_into_raw(
    folder: str, files: dict[str, str], stores: list[ObjectStore], image_ids: Collection[str], holdings: Holdings
) -> None:
    rows = _read_rows(files[RECORDS_FILE], stores, ["image_id", "shard", "offset", "size"], image_ids)
    log = find_bytes(stores, files[LABEL_LOG_FILE]) if LABEL_LOG_FILE in files else None
    if log is not None and any(image_id.encode() in log for image_id in image_ids):
        holdings.tables.add(files[LABEL_LOG_FILE])
        holdings.folders.add(folder)
    if not rows:
        return
    holdings.folders.add(folder)
    holdings.tables.add(files[RECORDS_FILE])
    for row in rows:
        if shard := files.get(name_raw_shard(row["shard"])):
            holdings.objects.add(shard)
            holdings.encoded.append((shard, row["offset"], row["size"]))


def _look_into_dataset(
    folder: str, files: dict[str, str], stores: list[ObjectStore], image_ids: Collection[str], holdings: Holdings
) -> None:
    manifest = find_bytes(stores, files[DATASET_MANIFEST_FILE])
    rows = _read_rows(files[INDEX_FILE], stores, ["image_id", "shard", "row"], image_ids)
    if rows is not None:
        holdings.known.add(folder)
    named = {INDEX_FILE} if rows else set()
    rows = rows or []
    if LEAKS_FILE in files and (leaks := _read_rows(files[LEAKS_FILE], stores, ["image_id", "shard", "row"],
                                                    image_ids)):  # fmt: skip
        rows, named = rows + leaks, named | {LEAKS_FILE}
    for name in (REJECTED_FILE, PEAKS_FILE):
        if name in files and _read_rows(files[name], stores, ["image_id"], image_ids):
            named.add(name)
    if named or folder in holdings.folders:
        holdings.folders.add(folder)
        holdings.fingerprints.add(str(_load_json(manifest).get("fingerprint")))
        holdings.tables |= {files[name] for name in named}
        holdings.objects |= {oid for path, oid in files.items() if path.endswith(PAGE_SUFFIX)}
    size = _measure_pixels(_load_json(manifest))
    for row in rows:
        if shard := files.get(name_pixel_shard(row["shard"])):
            holdings.objects.add(shard)
            if size:
                holdings.pixels.append((shard, NPY_HEADER_BYTES + row["row"] * size, size))


def _measure_pixels(manifest: dict[str, Any]) -> int:
    """Return the bytes of one picture's pixels; 0 if the manifest does not say."""
    from math import prod

    from imageset.decoding.spec import DecodeSpec

    try:
        return prod(DecodeSpec.from_dict(manifest["decode"]).shape)
    except (KeyError, TypeError, ValueError):
        return 0


def _load_json(text: bytes | None) -> dict[str, Any]:
    try:
        return dict(json.loads(text or b"{}"))
    except (ValueError, TypeError):
        return {}


def _read_rows(
    object_id: str, stores: list[ObjectStore], columns: list[str], image_ids: Collection[str]
) -> list[dict[str, Any]] | None:
    """Return the rows about pictures of a table; None if no store has it, or it is damaged."""
    data = find_bytes(stores, object_id)
    return None if data is None else read_rows(io.BytesIO(data), columns, image_ids)


def read_rows(
    file: io.BytesIO | Path, columns: list[str], image_ids: Collection[str]
) -> list[dict[str, Any]] | None:
    """Return the rows about pictures of a Parquet file; None if it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(select_rows(pq.ParquetFile(file).read(columns), image_ids).to_pylist())
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None


def select_rows(table: pa.Table, image_ids: Collection[str], invert: bool = False) -> pa.Table:
    """Return the rows of a table that are about pictures, or all others; `image_id` is text or 32 bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = table["image_id"].type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    wanted = pa.array(sorted(image_ids) if is_text else [bytes.fromhex(name) for name in sorted(image_ids)], kind)
    chosen = pc.is_in(table["image_id"], value_set=wanted)  # type: ignore[attr-defined]
    return table.filter(pc.invert(chosen) if invert else chosen)  # type: ignore[attr-defined]


def samples_picture(data: bytes, image_ids: Collection[str]) -> bool:
    """Return whether the reference sample of a bundle holds the features of a picture."""
    from lightning_modules.features.reference_sample import ImageSample

    with suppress(UserError):
        sampled = ImageSample.from_bytes(data).image_id
        if sampled is not None:
            wanted = {bytes.fromhex(image_id) for image_id in image_ids}
            return any(row.tobytes() in wanted for row in sampled)
    return False


# ---- reports, by the stages that wrote them ---------------------------------------------------------


def iter_stage_locks(project: Project, cache: Path) -> Iterator[dict[str, Any]]:
    """Yield what ran on what: each stage of dvc.lock, here and in git's commits, and of DVC's run cache."""
    import yaml

    texts = [*dvc_repo.iter_locks(project)]
    runs = cache / RUN_CACHE
    texts += [path.read_text(encoding="utf-8") for path in sorted(runs.glob("*/*/*")) if path.is_file()]
    for text in dict.fromkeys(texts):
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError:
            continue
        if isinstance(document, dict):
            yield from (document["stages"].values() if isinstance(document.get("stages"), dict) else [document])


def _add_pages(lock: dict[str, Any], stores: list[ObjectStore], holdings: Holdings) -> None:
    """Add the outputs of a stage that show single pictures of its input."""
    for out in lock.get("outs") or []:
        path, object_id = PurePosixPath(str(out.get("path"))), str(out.get("md5"))
        if path == PurePosixPath(NORMALIZED):
            holdings.objects |= {
                oid for name, oid in read_folder(stores, object_id).items() if name.endswith(PAGE_SUFFIX)
            }
        elif object_id.endswith(FOLDER_SUFFIX):
            files = read_folder(stores, object_id)
            holdings.objects |= {oid for name, oid in files.items() if shows_pictures(path / name)}
        elif shows_pictures(path):
            holdings.objects.add(object_id)


def shows_pictures(path: PurePosixPath) -> bool:
    """Return whether a file of a report shows or names single pictures."""
    in_shown = SHOWN_FOLDER in path.parts[:-1] and path.suffix in (".png", ".jpg", ".svg", ".gif")
    return path.suffix == PAGE_SUFFIX or path.name in PICTURE_FILES or in_shown
