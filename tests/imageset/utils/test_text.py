from imageset.utils.text import format_class_count, format_count


def test_one_is_said_as_one():
    assert format_count(1, "picture") == "1 picture" and format_count(0, "picture") == "0 pictures"
    assert format_count(1162, "picture") == "1,162 pictures"
    assert format_count(2, "picture is", "pictures are") == "2 pictures are"
    assert format_class_count(1, False) == "1 class" and format_class_count(2, False) == "2 classes"
    assert format_class_count(1, True) == "1 label"
