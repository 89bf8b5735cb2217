from imageset.sources import open_source
from imageset.words import count, count_kinds
from tests.conftest import write_pictures


def test_one_is_said_as_one():
    assert count(1, "picture") == "1 picture" and count(0, "picture") == "0 pictures"
    assert count(1162, "picture") == "1,162 pictures"
    assert count(2, "picture is", "pictures are") == "2 pictures are"
    assert count_kinds(1, False) == "1 class" and count_kinds(2, False) == "2 classes"
    assert count_kinds(1, True) == "1 label"


def test_a_source_of_one_class_with_one_other_file_is_echoed_so(tmp_path):
    write_pictures(tmp_path / "digits", classes="3", num_each=1)
    (tmp_path / "digits/3/notes.txt").write_text("x")
    source = open_source(str(tmp_path / "digits"), to_learn=False)
    assert "1 picture in 1 class (3 1); passed over: 1 file of another kind" in source.describe()
