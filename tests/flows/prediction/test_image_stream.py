import os
import re
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
        (
            "notes",
            r"notes: holds no pictures \(sub-folders included\): 2 files without an ending, 2 links, "
            r"1 \.txt file, 1 hidden file; name",
        ),
        ("notes/a.txt", "a text file is not read as a table"),
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
    (tmp_path / "notes" / "folder").symlink_to(tmp_path / "empty")
    for name in ("b", "c."):
        (tmp_path / "notes" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        check_images(str(tmp_path / source))
    assert not holds_images(tmp_path / source)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be listed: Permission denied"):
        holds_images(tmp_path)


@pytest.fixture
def inbox(tmp_path):
    """Pictures, one of them a link and one in a sub-folder, and files that are none."""
    (tmp_path / "inbox" / "sub").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "[c].png", "d e.png", "notes.txt", "f", "sub/g.png"):
        (tmp_path / "inbox" / name).write_bytes(name.encode())
    (tmp_path / "inbox" / "link.png").symlink_to("a.png")
    return tmp_path / "inbox"


@pytest.mark.parametrize(
    ("source", "uris", "passed_over"),
    [
        ("inbox/a.png", ["a.png"], {}),
        ("inbox/[c].png", ["[c].png"], {}),
        ("inbox/*.png", ["[c].png", "a.png", "d e.png"], {"links": 1}),
        ("inbox/{a.png,b.JPG}", ["a.png", "b.JPG"], {}),
        ("inbox/*", ["[c].png", "a.png", "b.JPG", "d e.png"], {"files of other kinds": 2, "links": 1}),
        ("inbox/**/?.png", ["a.png", "sub/g.png"], {}),
        (["inbox/b.JPG", "inbox/a.png", "inbox/./a.png"], ["a.png", "b.JPG"], {}),
        (["inbox/sub/g.png", "inbox/a.png", "inbox/f"], ["a.png", "sub/g.png"], {"files of other kinds": 1}),
        ("inbox", ["[c].png", "a.png", "b.JPG", "d e.png", "sub/g.png"], {"files of other kinds": 2, "links": 1}),
    ],
)
def test_pictures_are_named_by_file_by_pattern_or_by_folder(inbox, monkeypatch, source, uris, passed_over):
    monkeypatch.chdir(inbox.parent)
    check_images(source)
    images = open_images(source)
    assert [(image.uri, data) for image, data in images] == [(uri, uri.encode()) for uri in uris]
    assert images.passed_over == passed_over
    assert all(images.to_path(uri).is_file() for uri in uris)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            ["inbox/a.png", "inbox/sub"],
            "inbox/sub: a folder among several sources; give one folder, or only files",
        ),
        (["inbox/a.png", "inbox/gone.png"], "inbox/gone.png: no such file"),
        (
            ["inbox/f", "inbox/notes.txt"],
            "inbox/f: there is no picture among the given files; passed over: 2 files of other kinds",
        ),
        ("inbox/link.png", "there is no picture among the given files; passed over: 1 link"),
        ("inbox/*.gif", "no such file"),
        ("inbox/gone.png", "no such folder"),
    ],
)
def test_files_that_are_no_pictures_are_refused_with_their_kind(inbox, monkeypatch, source, message):
    monkeypatch.chdir(inbox.parent)
    for find in (check_images, open_images):
        with pytest.raises(UserError, match=re.escape(message)):
            find(source)


def test_pictures_beside_the_splits_of_an_archive_are_predicted_as_those_of_its_folder(tmp_path):
    names = [f"{folder}/{number}.png" for folder in ("train/a", "train/b", "test/a", "new") for number in (0, 1)]
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    with zipfile.ZipFile(tmp_path / "pets.zip") as archive:
        archive.extractall(tmp_path / "pets")
    for source in ("pets.zip", "pets", "pets.zip?level=2", "pets?level=2"):
        opened = open_images(str(tmp_path / source))
        assert sorted(image.uri for image, _ in opened) == sorted(names) and not opened.passed_over
    for source in ("pets.zip?ignore=new", "pets?ignore=new"):
        assert open_images(str(tmp_path / source)).passed_over == {"pictures in new (ignored)": 2}


def test_a_folder_with_options_is_accepted_without_being_listed(folder, monkeypatch):
    monkeypatch.setattr(image_stream, "open_images", lambda source: pytest.fail(f"{source} was opened"))
    check_images(f"{folder}?ignore=docs")
