"""An ingest adds: the same story told to every kind of source, on parts of photographs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from tests.helpers.datasets import pack_members
from tests.helpers.photographs import crop_photographs
from tests.helpers.servers import serve_http

Pictures = dict[str, tuple[str, bytes]]  # name -> (class, bytes)


@pytest.fixture(scope="module")
def flowers() -> Pictures:
    found = crop_photographs(("daisy", "dandelion"), 4)
    return {f"{number}.jpg": (Path(name).parent.name, data) for number, (name, data) in enumerate(found.items())}


def as_folder(folder: Path, pictures: Pictures) -> str:
    wanted = {folder / "set" / label / name: data for name, (label, data) in pictures.items()}
    for file in [*folder.rglob("*.jpg")]:
        if file not in wanted:
            file.unlink()
    for file, data in wanted.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return str(folder / "set")


def as_archive(ending: str) -> Callable[[Path, Pictures], str]:
    def make(folder: Path, pictures: Pictures) -> str:
        members = [(f"set/{label}/{name}", data) for name, (label, data) in pictures.items()]
        return str(pack_members(folder / f"set{ending}", members))

    return make


def as_shard(folder: Path, pictures: Pictures) -> str:
    members = []
    for name, (label, data) in pictures.items():
        members += [(name, data), (f"{Path(name).stem}.cls", label.encode())]
    return str(pack_members(folder / "set.tar", members))


def as_table(ending: str) -> Callable[[Path, Pictures], str]:
    def make(folder: Path, pictures: Pictures) -> str:
        for name, (_, data) in pictures.items():
            (folder / name).write_bytes(data)
        rows = [{"file": name, "label": label} for name, (label, _) in pictures.items()]
        text = "\n".join(map(json.dumps, rows))
        if ending == ".csv":
            text = "file,label\n" + "\n".join(",".join(row.values()) for row in rows)
        (folder / f"set{ending}").write_text(text)
        return str(folder / f"set{ending}")

    return make


def as_parquet(folder: Path, pictures: Pictures) -> str:
    images = [{"bytes": data, "path": name} for name, (_, data) in pictures.items()]
    pq.write_table(
        pa.table({"image": images, "label": [label for label, _ in pictures.values()]}), folder / "set.parquet"
    )
    return str(folder / "set.parquet")


@pytest.fixture
def site() -> Iterator[Any]:
    with serve_http() as running:
        yield running


LOCAL = {
    "folder": as_folder,
    "zip": as_archive(".zip"),
    "tar.gz": as_archive(".tar.gz"),
    "shard": as_shard,
    "csv": as_table(".csv"),
    "jsonl": as_table(".jsonl"),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("kind", [*LOCAL, "http zip", "http csv"])
def test_an_ingest_packs_what_is_new_marks_what_is_gone_and_rewrites_no_picture(
    tmp_path: Path, flowers: Pictures, site: Any, kind: str
) -> None:
    (tmp_path / "source").mkdir()

    def bring(pictures: Pictures) -> Any:
        source = LOCAL[kind.removeprefix("http ")](tmp_path / "source", pictures)
        if kind.startswith("http"):
            site.files.clear()
            site.add_folder(tmp_path / "source")
            source = f"{site.url}/{Path(source).name}"
        return ingest_source(source, tmp_path / "raw")

    def shards() -> dict[str, tuple[bytes, int]]:
        files = (tmp_path / "raw").glob("*.tar")
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}

    def rows() -> list[dict[str, Any]]:
        return read_records(tmp_path / "raw").to_pylist()

    names = list(flowers)
    few = {name: flowers[name] for name in names[1:7]}
    assert bring(few).num_new == 6
    first, before = shards(), rows()

    summary = bring(few | {names[7]: flowers[names[7]]})  # grown
    assert (summary.num_new, summary.num_known, summary.num_absent) == (1, 6, 0)
    grown = shards()
    assert len(grown) == 2 and first.items() <= grown.items()

    summary = bring(few)  # vanished
    assert (summary.num_new, summary.num_absent, summary.classes) == (0, 1, {"daisy": 3, "dandelion": 3})
    assert shards() == grown and [row for row in rows() if not row["absent"]] == before

    corrected = few | {names[1]: ("dandelion", flowers[names[1]][1])}
    summary = bring(corrected)  # another label
    assert (summary.num_new, summary.num_shards, summary.changed) == (0, 0, True)
    assert summary.classes == {"daisy": 2, "dandelion": 4} and shards() == grown
    now = [row for row in rows() if not row["absent"]]
    assert len(now) == 6 and len([row for row in now if row not in before]) == 1
    assert not bring(corrected).changed and shards() == grown
