from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imageset.errors import UserError
from imageset.quality import Rejected
from imageset.raw import ingest
from imageset.sources import open_source
from tests.imageset.pictures import make_folder, noise


def pack(folder: Path, archive: Path, inside: str = "") -> Path:
    files = [
        (f"{inside}{file.relative_to(folder).as_posix()}", file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    return pack_members(archive, files)


def pack_members(archive: Path, files: list[tuple[str, bytes]]) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as target:
            for name, data in files:
                target.writestr(name, data)
        return archive
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "set", num_each=3)
    archive = pack(folder, tmp_path / name, inside="data/set/")
    summary = ingest(archive, tmp_path / "raw")
    assert (summary.name, summary.kind, summary.classes) == ("set", "archive", {"ant": 3, "bee": 3})
    inside = {one.read() for one in open_source(archive)}
    assert inside == {file.read_bytes() for file in folder.rglob("*.png")}


def test_split_folders_inside_an_archive_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_folder(tmp_path / "set" / split, num_each=2)
    source = open_source(pack(tmp_path / "set", tmp_path / "set.zip", inside="top/"))
    assert Counter((one.split, one.label) for one in source) == {
        (split, label): 2 for split in ("train", "test") for label in ("ant", "bee")
    }


def test_webdataset_shards_take_their_labels_from_notes(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files += [(f"{number:04d}.png", noise(number)), (f"{number:04d}.cls", b"%d" % (number % 2))]
    files += [("0004.png", noise(4)), ("0004.json", json.dumps({"label": "1"}).encode())]
    source = open_source(pack_members(tmp_path / "shard.tar", files))
    assert [one.label for one in source] == ["0", "1", "0", "1", "1"]


def test_a_link_or_a_path_out_of_a_tar_is_never_followed(tmp_path: Path) -> None:
    archive = pack(make_folder(tmp_path / "set", num_each=2), tmp_path / "set.tar")
    with tarfile.open(archive, "a") as target:
        link = tarfile.TarInfo("ant/passwd.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        target.addfile(link)
        evil = tarfile.TarInfo("../../evil.png")
        evil.size = 3
        target.addfile(evil, io.BytesIO(b"abc"))
        absolute = tarfile.TarInfo("/bee/absolute.png")
        absolute.size = 3
        target.addfile(absolute, io.BytesIO(b"abc"))
    source = open_source(archive)
    assert source.passed_over == {"links, devices and FIFOs": 1, "names that lead out of the archive": 1}
    assert source.classes == {"ant": 2, "bee": 3}
    ingest(source, tmp_path / "deep" / "raw")
    assert not list(tmp_path.rglob("evil*"))


def test_a_zip_that_lies_about_its_size_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imageset import archives

    monkeypatch.setattr(archives.read_member, "__defaults__", (10_000,))
    folder = make_folder(tmp_path / "set", num_each=1)
    (folder / "ant" / "bomb.png").write_bytes(bytes(1_000_000))
    pictures = {one.uri: one for one in open_source(pack(folder, tmp_path / "set.zip"))}
    with zipfile.ZipFile(tmp_path / "set.zip") as archive, pytest.raises(Rejected, match="unpacks to more"):
        archives.read_member(archives.Member("x", archives.partial(archive.open, "ant/bomb.png")))
    assert "ant/bomb.png" in pictures


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = pack(make_folder(tmp_path / "set", num_each=2), tmp_path / "set.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"set\.tar\.gz: damaged archive"):
        list(open_source(archive))


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    archive = pack(make_folder(tmp_path / "set", num_each=2), tmp_path / "set.zip")
    data = bytearray(archive.read_bytes())
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of both headers of each member
        for found in re.finditer(re.escape(sign), bytes(data)):
            data[found.start() + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"set\.zip: is encrypted; unpack it yourself"):
        open_source(archive)


def rows(folder: Path) -> list[dict[str, str]]:
    return [
        {"file": file.relative_to(folder).as_posix(), "breed": file.parent.name, "fold": "test", "dog": "d1"}
        for file in sorted(folder.rglob("*.png"))
    ]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_names_files_labels_splits_and_groups(tmp_path: Path, ending: str) -> None:
    folder = make_folder(tmp_path / "set", num_each=2)
    table, path = rows(folder), folder / f"table.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table))
    else:
        comma = "," if ending == "csv" else "\t"
        path.write_text("\n".join(comma.join(row) for row in [list(table[0]), *(row.values() for row in table)]))
    with pytest.raises(UserError, match=r"no column looks like the label .*label=COLUMN"):
        open_source(path)
    source = open_source(f"{path}?label=breed&group=dog")
    pictures = list(source)
    assert [(one.label, one.split, one.group) for one in pictures] == [("ant", "test", "d1")] * 2 + [
        ("bee", "test", "d1")
    ] * 2
    assert pictures[0].read() == (folder / "ant" / "0000.png").read_bytes()
    assert "label: breed" in source.describe()


def test_class_007_stays_007_and_a_path_outside_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").write_bytes(noise(1))
    (tmp_path / "set" / "t.csv").write_text("path,label\n../secret.png,007\ngone.png,008\n")
    pictures = list(open_source(tmp_path / "set" / "t.csv"))
    assert [one.label for one in pictures] == ["007", "008"]
    for picture, why in zip(pictures, ("outside the table's folder", "no such file"), strict=True):
        with pytest.raises(Rejected, match=why):
            picture.read()


def test_hugging_face_parquet_keeps_bytes_and_class_names(tmp_path: Path) -> None:
    images = [{"bytes": noise(number), "path": f"{number}.png"} for number in range(4)]
    table = pa.table({"image": images, "label": [0, 1, 0, 1]})
    features = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "hf.parquet")
    pictures = list(open_source(tmp_path / "hf.parquet"))
    assert [one.label for one in pictures] == ["ant", "bee", "ant", "bee"] and pictures[2].read() == noise(2)


def test_a_column_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,breed\na.png,x\n")
    with pytest.raises(UserError, match="no column 'bred'; did you mean 'breed'"):
        open_source(f"{tmp_path / 't.csv'}?label=bred")
