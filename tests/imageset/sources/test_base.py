from __future__ import annotations

import pytest

from imageset.sources.base import format_passed_over, slugify
from imageset.sources.factory import open_source
from tests.helpers.images import write_digit_images


def test_a_slug_is_fit_for_a_name() -> None:
    assert [slugify(name) for name in ("My Flowers (2)", "___", "Ä")] == ["my-flowers-2", "dataset", "dataset"]


def test_a_source_of_one_class_with_one_other_file_is_echoed_so(tmp_path):
    write_digit_images(tmp_path / "digits", classes="3", num_each=1)
    (tmp_path / "digits/3/notes.txt").write_text("x")
    source = open_source(str(tmp_path / "digits"), require_classes=False)
    assert "1 picture in 1 class (3 1); passed over: 1 file of another kind" in source.describe()


@pytest.mark.parametrize(
    ("cause", "one"),
    [
        ("links", "1 link"),
        ("links, devices and FIFOs", "1 link, device or FIFO"),
        ("unlabelled pictures of a split", "1 unlabelled picture of a split"),
        ("pictures in docs", "1 picture in docs"),
        ("system folders (@eaDir)", "1 system folder (@eaDir)"),
        (
            "folders that cannot be listed (Permission denied)",
            "1 folder that cannot be listed (Permission denied)",
        ),
        ("names that lead out of the archive", "1 name that leads out of the archive"),
        ("hidden", "1 hidden"),
    ],
)
def test_one_file_that_is_passed_over_is_one(cause, one):
    assert format_passed_over({cause: 1}) == f"; passed over: {one}"
    assert format_passed_over({cause: 2}) == f"; passed over: 2 {cause}"
