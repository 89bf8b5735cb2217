from __future__ import annotations

from imageset.sources.base import slugify
from imageset.sources.factory import open_source
from tests.helpers.images import write_digit_images


def test_a_slug_is_fit_for_a_name() -> None:
    assert [slugify(name) for name in ("My Flowers (2)", "___", "Ä")] == ["my-flowers-2", "dataset", "dataset"]


def test_a_source_of_one_class_with_one_other_file_is_echoed_so(tmp_path):
    write_digit_images(tmp_path / "digits", classes="3", num_each=1)
    (tmp_path / "digits/3/notes.txt").write_text("x")
    source = open_source(str(tmp_path / "digits"), require_classes=False)
    assert "1 picture in 1 class (3 1); passed over: 1 file of another kind" in source.describe()
