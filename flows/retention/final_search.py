"""The search at the end of `convoy forget`: are the pictures anywhere that Convoy can read?

A window of a picture that is also in another picture, which stays, is no evidence: two photographs of one camera
share a colour profile. Such windows are found in data/raw and data/normalized, where each picture's place is
known, and left out elsewhere. What is found in a cache is removed; what is found in other files is named.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.project.paths import CACHE, NORMALIZED, RAW
from flows.project.project import Project
from flows.retention.actions import remove_path
from flows.retention.byte_search import ByteSearch, iter_files
from flows.retention.journal import Journal, list_journal_folders
from flows.retention.stores.artifacts import ArtifactFolder, iter_models
from flows.retention.stores.dataset_versions import select_rows
from flows.retention.stores.object_store import ObjectStore, find_cache_folder
from imageset.raw.records import RECORDS_FILE
from imageset.raw.shards import name_raw_shard
from imageset.store.format import (
    DATASET_MANIFEST_FILE,
    INDEX_FILE,
    LEAKS_FILE,
    NPY_HEADER_BYTES,
    name_pixel_shard,
)
from imageset.utils.text import format_count
from lightning_modules.tracking.local_store.location import DATABASE, find_shared_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_NAMED = 20


@dataclass
class SearchResult:
    """The outcome of a search.

    Attributes:
        num_files: files and objects that were searched.
        removed: those in caches and remotes that held a picture and were removed.
        left: other files that hold one.
        num_shared: contents of which another picture has every part, so that nothing can be searched for.
    """

    num_files: int = 0
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    num_shared: int = 0

    def describe(self) -> Iterator[str]:
        """Yield the lines for the user."""
        end = "nothing left" if not self.left else f"left in {format_count(len(self.left), 'file')}"
        yield f"searched {format_count(self.num_files, 'file')} for its bytes and pixels: {end}"
        if self.removed:
            yield f"found by the search and removed: {', '.join(self.removed[:MAX_NAMED])}"
        yield from (
            f"left: {name}; Convoy does not change it, remove it yourself" for name in self.left[:MAX_NAMED]
        )
        if len(self.left) > MAX_NAMED:
            yield f"left: {len(self.left) - MAX_NAMED:,} more"
        if self.num_shared:
            yield (
                f"not searched for: {self.num_shared:,} of its contents, as another picture that stays has the "
                "same (a copy in other bytes, or plain pixels)"
            )


def search_everything(
    project: Project,
    journal: Journal,
    stores: list[ObjectStore],
    client: MlflowClient,
    runs: Iterable[Run],
    kept: Collection[str],
) -> SearchResult:
    """Search the project, DVC's cache and remotes, and MLflow's artifacts for the content of pictures.

    Args:
        project: the project.
        journal: holds the content.
        stores: DVC's cache and remotes.
        client: of MLflow.
        runs: of the project.
        kept: objects that another project needs.
    """
    result = SearchResult()
    search = ByteSearch.of(journal.contents)
    shared: set[bytes] = set()
    for path, is_of_others in _iter_data_files(project, journal.image_ids):
        _search_data_file(path, is_of_others, search, shared, result, project)
    search.set_windows({window for some in search.windows.values() for window in some} - shared)
    result.num_shared = sum(not search.can_find(content) for content in journal.contents)
    _search_project(project, stores, search, result)
    for store in stores:
        _search_store(store, search, result, kept)
    _search_artifacts(client, runs, search, result)
    return result


# ---- data/raw and data/normalized -------------------------------------------------------------------


def _iter_data_files(project: Project, image_ids: Collection[str]) -> Iterator[tuple[Path, Callable[[int], bool]]]:
    """Yield the files that hold bytes or pixels of pictures, and whether an offset belongs to one that stays."""
    import json
    from math import prod

    from imageset.decoding.spec import DecodeSpec

    for shard, rows in _group_rows(project / RAW / RECORDS_FILE, ["shard", "offset", "size"], image_ids).items():
        ranges = sorted((offset, offset + size) for offset, size in rows if offset is not None)
        yield project / RAW / name_raw_shard(shard), _make_range_test(ranges)
    try:
        manifest = json.loads((project / NORMALIZED / DATASET_MANIFEST_FILE).read_text(encoding="utf-8"))
        size = prod(DecodeSpec.from_dict(manifest["decode"]).shape)
    except (OSError, ValueError, KeyError, TypeError):
        return
    indexed = _group_rows(project / NORMALIZED / INDEX_FILE, ["shard", "row", "row"], image_ids)
    for shard, rows in _group_rows(project / NORMALIZED / LEAKS_FILE, ["shard", "row", "row"], image_ids).items():
        indexed.setdefault(shard, []).extend(rows)
    for shard, rows in indexed.items():
        starts = sorted(NPY_HEADER_BYTES + row * size for row, _ in rows)
        yield project / NORMALIZED / name_pixel_shard(shard), _make_range_test([(at, at + size) for at in starts])


def _group_rows(path: Path, columns: list[str], image_ids: Collection[str]) -> dict[int, list[tuple[int, int]]]:
    """Return the second and third column of a table by the first, of all other pictures; {} without a table."""
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    table = select_rows(pq.read_table(path, columns=["image_id", *sorted(set(columns))]), image_ids, invert=True)
    grouped: dict[int, list[tuple[int, int]]] = {}
    for shard, first, second in zip(*(table[name].to_pylist() for name in columns), strict=True):
        if shard is not None:
            grouped.setdefault(shard, []).append((first, second))
    return grouped


def _make_range_test(ranges: list[tuple[int, int]]) -> Callable[[int], bool]:
    starts = [start for start, _ in ranges]

    def is_in_range(offset: int) -> bool:
        position = bisect_right(starts, offset) - 1
        return position >= 0 and offset < ranges[position][1]

    return is_in_range


def _search_data_file(
    path: Path,
    is_of_others: Callable[[int], bool],
    search: ByteSearch,
    shared: set[bytes],
    result: SearchResult,
    project: Project,
) -> None:
    result.num_files += 1
    is_left = False
    with path.open("rb") as file:
        for offset, window in search.find_in_file(file):
            if is_of_others(offset):
                shared.add(window)
            else:
                is_left = True
    if is_left:
        result.left.append(str(path.relative_to(project.folder)))


# ---- everything else --------------------------------------------------------------------------------


def _search_project(project: Project, stores: list[ObjectStore], search: ByteSearch, result: SearchResult) -> None:
    folder = project.folder.resolve()
    objects = [Path(store.odb.path) for store in stores if store.odb.fs.protocol == "local"]
    done = {path.resolve() for path, _ in _iter_data_files(project, ())}
    paths = list(iter_files(folder, [*objects, *list_journal_folders(Project(folder))]))
    database = find_shared_folder(folder) / DATABASE
    paths += [path for path in (database,) if path.is_file() and not path.is_relative_to(folder)]
    paths += [path for path in iter_files(find_cache_folder(stores), objects) if not path.is_relative_to(folder)]
    for path in paths:
        if path in done:
            continue
        result.num_files += 1
        if not _is_in(path, search):
            continue
        name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        if path.is_relative_to(folder / CACHE):
            remove_path(path)
            result.removed.append(name)
        else:
            result.left.append(name)


def _is_in(path: Path, search: ByteSearch) -> bool:
    try:
        with path.open("rb") as file:
            return search.is_in_file(file)
    except FileNotFoundError:  # a temporary file of another process
        return False


def _search_store(store: ObjectStore, search: ByteSearch, result: SearchResult, kept: Collection[str]) -> None:
    for object_id in sorted(store.object_ids):
        result.num_files += 1
        with store.open(object_id) as file:
            is_found = search.is_in_file(file)
        if is_found and object_id not in kept:
            store.remove([object_id])
            result.removed.append(f"{object_id} of {store.name}")


def _search_artifacts(client: MlflowClient, runs: Iterable[Run], search: ByteSearch, result: SearchResult) -> None:
    for run in runs:
        folders = [ArtifactFolder(run.info.artifact_uri, f"run {run.info.run_id[:12]}"), *iter_models(client, run)]
        for folder in folders:
            for path in folder.iter_paths():
                result.num_files += 1
                with folder.open(path) as file:
                    if search.is_in_file(file):
                        result.left.append(f"{path} of MLflow's {folder.label}")
