import pytest

from flows.project.project import Project
from flows.versioning.forgotten_list import FORGOTTEN, add_forgotten, read_forgotten
from imageset.exceptions import UserError


def test_the_list_grows_and_holds_each_picture_once(tmp_path):
    project = Project(tmp_path)
    assert read_forgotten(project) == frozenset()
    add_forgotten(project, ["b" * 64])
    add_forgotten(project, ["a" * 64, "b" * 64])
    assert (tmp_path / FORGOTTEN).read_text() == f"{'a' * 64}\n{'b' * 64}\n"
    assert read_forgotten(project) == {"a" * 64, "b" * 64}


def test_a_damaged_list_stops_what_reads_it(tmp_path):
    (tmp_path / FORGOTTEN).parent.mkdir()
    for content in (b"a" * 64 + b"\n<<<<<<< HEAD\n", b"\xff\xfe"):
        (tmp_path / FORGOTTEN).write_bytes(content)
        with pytest.raises(UserError, match=r"is not an image_id .*; restore the file"):
            read_forgotten(Project(tmp_path))
