import os
import zipfile

import pytest

from flows.prediction import image_stream
from flows.prediction.image_stream import check_images, holds_images, open_images
from imageset.exceptions import UserError
from imageset.sources.files import find_images

ODD_NAMES = [b"a.png", b"b\nc.png", b"d\\e.png", b"f\xff.png", "g é.png".encode()]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ODD_NAMES:
        for place in (folder, folder / "sub"):
            (place / os.fsdecode(name)).write_bytes(b"%r in %r" % (name, os.fsencode(place)))
    return folder


@pytest.mark.parametrize("memory_bytes", [1 << 20, 10])
def test_a_folder_can_be_read_again_whatever_its_files_are_called(folder, memory_bytes, monkeypatch):
    monkeypatch.setattr(image_stream, "LISTING_MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr(image_stream, "LISTING_READ_BYTES", 20)
    images, files = open_images(str(folder)), list(find_images(folder))
    expected = [(file.uri, file.path.read_bytes()) for file in files]
    for _ in range(2):
        assert [(image.uri, data) for image, data in images] == expected
    assert len(images) == 2 * len(ODD_NAMES)
    assert [images.to_path(file.uri) for file in files] == [file.path for file in files]


def test_a_listing_is_read_by_two_readers_at_once(folder, monkeypatch):
    monkeypatch.setattr(image_stream, "LISTING_READ_BYTES", 20)
    images = open_images(str(folder))
    assert all(first[0] == second[0] for first, second in zip(images, images, strict=True))


def test_a_file_that_disappears_keeps_its_row(folder):
    images = open_images(str(folder))
    (folder / "a.png").unlink()
    by_uri = {image.uri: image for image, _ in images}
    assert len(by_uri) == len(images) and by_uri["a.png"].error == "unreadable: No such file or directory"


def test_a_source_is_accepted_by_name_without_being_opened(folder, tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.png").write_bytes(b"a")
    with zipfile.ZipFile(tmp_path / "part-0.zip", "w") as archive:
        archive.writestr("a.png", b"a")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "part-0.tar").write_bytes(b"")
    (tmp_path / "table.csv").write_text("path\na.png\n")
    monkeypatch.setattr(image_stream, "open_images", lambda source: pytest.fail(f"{source} was opened"))
    sources = ["deep", "part-0.zip", "part-*.zip", "part-{0..0}.zip", "shards", "table.csv?label=path"]
    for source in sources:
        check_images(str(tmp_path / source))
    check_images(f"file://{tmp_path}/deep")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: no such folder"),
        ("empty", "empty: holds no pictures"),
        ("notes", "notes: holds no pictures"),
        ("notes/a.txt", "not a folder; give a folder"),
        ("part-*.zip", r"no such file: .*part-\*\.zip"),
        ("nowhere.csv", "no such folder"),
    ],
)
def test_a_source_without_images_is_refused_before_it_is_used(tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    (tmp_path / "notes" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes" / "link.png").symlink_to(tmp_path / "notes" / "a.txt")
    with pytest.raises(UserError, match=message):
        check_images(str(tmp_path / source))
    assert not holds_images(tmp_path / source)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be listed: Permission denied"):
        holds_images(tmp_path)
