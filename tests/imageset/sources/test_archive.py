from __future__ import annotations

import io
import json
import re
import stat
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.rejections import Rejected
from imageset.sources.factory import open_source
from tests.helpers.datasets import pack_folder, pack_members
from tests.helpers.images import encode_noise, make_image_folder


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, name: str) -> None:
    folder = make_image_folder(tmp_path / "set", num_each=3)
    archive = pack_folder(folder, tmp_path / name, inside="data/set/")
    summary = ingest_source(archive, tmp_path / "raw")
    assert (summary.name, summary.kind, summary.classes) == ("set", "archive", {"ant": 3, "bee": 3})
    inside = {one.read() for one in open_source(archive)}
    assert inside == {file.read_bytes() for file in folder.rglob("*.png")}


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_pictures_without_an_ending_in_an_archive_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    folder = make_image_folder(tmp_path / "set", classes=("ant", "bee"), num_each=3)
    for number, file in enumerate(sorted(folder.rglob("*.png"))):
        file.rename(file.with_name(f"IMG_{number:04d}"))
    (folder / "LICENSE").write_text("text")
    source = open_source(pack_folder(folder, tmp_path / name))
    assert source.describe() == (
        f"{tmp_path / name}: 6 pictures in 2 classes (ant 3, bee 3); 6 pictures have no ending and are known by "
        "the content; passed over: 1 file of another kind"
    )
    assert {image.read() for image in source} == {file.read_bytes() for file in folder.rglob("IMG_*")}


def test_split_folders_inside_an_archive_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_image_folder(tmp_path / "set" / split, num_each=2)
    source = open_source(pack_folder(tmp_path / "set", tmp_path / "set.zip", inside="top/"))
    assert Counter((one.split, one.label) for one in source) == {
        (split, label): 2 for split in ("train", "test") for label in ("ant", "bee")
    }


def test_webdataset_shards_take_their_labels_from_notes(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files += [(f"{number:04d}.png", encode_noise(number)), (f"{number:04d}.cls", b"%d" % (number % 2))]
    files += [("0004.png", encode_noise(4)), ("0004.json", json.dumps({"label": "1"}).encode())]
    source = open_source(pack_members(tmp_path / "shard.tar", files))
    assert [one.label for one in source] == ["0", "1", "0", "1", "1"]


def test_a_link_or_a_path_out_of_a_tar_is_never_followed(tmp_path: Path) -> None:
    archive = pack_folder(make_image_folder(tmp_path / "set", num_each=2), tmp_path / "set.tar")
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
    ingest_source(source, tmp_path / "deep" / "raw")
    assert not list(tmp_path.rglob("evil*"))


def test_a_zip_that_lies_about_its_size_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imageset.sources import archive as sources_archive

    monkeypatch.setattr(sources_archive.read_member, "__defaults__", (10_000,))
    folder = make_image_folder(tmp_path / "set", num_each=1)
    (folder / "ant" / "bomb.png").write_bytes(bytes(1_000_000))
    pictures = {one.uri: one for one in open_source(pack_folder(folder, tmp_path / "set.zip"))}
    with zipfile.ZipFile(tmp_path / "set.zip") as archive, pytest.raises(Rejected, match="unpacks to more"):
        sources_archive.read_member(
            sources_archive.ArchiveMember("x", sources_archive.partial(archive.open, "ant/bomb.png"))
        )
    assert "ant/bomb.png" in pictures


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = pack_folder(make_image_folder(tmp_path / "set", num_each=2), tmp_path / "set.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"set\.tar\.gz: damaged archive"):
        list(open_source(archive))


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    archive = pack_folder(make_image_folder(tmp_path / "set", num_each=2), tmp_path / "set.zip")
    data = bytearray(archive.read_bytes())
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of both headers of each member
        for found in re.finditer(re.escape(sign), bytes(data)):
            data[found.start() + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"set\.zip: the archive is encrypted; unpack it yourself"):
        open_source(archive)


def test_a_zip_from_windows_with_backslashes_is_read_as_any_other(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for number, folder in enumerate(("train\\ant", "train\\bee", "test\\ant", "test\\bee")):
            archive.writestr(f"set\\{folder}\\", b"")
            archive.writestr(f"set\\{folder}\\1.png", encode_noise(number))
        archive.writestr("..\\evil.png", encode_noise(9))
        archive.writestr("set\\@eaDir\\1.png", encode_noise(9))
    source = open_source(tmp_path / "set.zip")
    assert (source.classes, source.splits) == ({"ant": 2, "bee": 2}, {"train": 2, "test": 2})
    assert source.passed_over == {
        "names that lead out of the archive": 1,
        "files in system folders (@eaDir)": 1,
    }
    assert [one.read() for one in source] == [encode_noise(number) for number in range(4)]


@pytest.mark.parametrize("name", ["set.zip", "set.tar"])
@pytest.mark.parametrize("what", ["folder", "pictures"])
def test_a_class_of_links_in_an_archive_is_named(tmp_path: Path, name: str, what: str) -> None:
    archive = pack_folder(make_image_folder(tmp_path / "set", num_each=2), tmp_path / name, inside="set/")
    links = ["set/wasp"] if what == "folder" else ["set/wasp/1.png", "set/wasp/2.png"]
    for link in links:
        if name == "set.tar":
            with tarfile.open(archive, "a") as target:
                member = tarfile.TarInfo(link)
                member.type, member.linkname = tarfile.SYMTYPE, "../elsewhere/wasp"
                target.addfile(member)
        else:
            with zipfile.ZipFile(archive, "a") as target_zip:
                info = zipfile.ZipInfo(link)
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                target_zip.writestr(info, "../elsewhere/wasp")
    message = "the class folder is a link" if what == "folder" else "all 2 pictures of the class folder are links"
    with pytest.raises(UserError, match=f"set/wasp: {message}"):
        open_source(archive)
    assert open_source(f"{archive}?ignore=wasp").passed_over == {"links, devices and FIFOs": len(links)}
