from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imageset.decoding.decoder import decode
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.sources.factory import open_source
from tests.helpers.datasets import write_idx


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_give_their_pictures_labels_and_splits(tmp_path: Path, zipped: bool) -> None:
    ending = ".gz" if zipped else ""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 7), np.uint8)
    for name in ("train", "t10k"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte{ending}", pixels, zipped)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte{ending}", np.array([3, 4, 3, 4, 3, 4], np.uint8), zipped)
    source = open_source(tmp_path)
    pictures = list(source)
    assert source.kind == "idx" and Counter((one.split, one.label) for one in pictures) == {
        ("train", "3"): 3,
        ("train", "4"): 3,
        ("test", "3"): 3,
        ("test", "4"): 3,
    }
    spec = DecodeSpec(7, 1, "crop", "nearest", 10**6)
    np.testing.assert_array_equal(decode(pictures[5].read(), spec)[..., 0], pixels[5, 1:8])


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((4, 5, 5), np.uint8))
    with pytest.raises(UserError, match="labels are missing; put train-labels-idx1-ubyte beside it"):
        open_source(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(UserError, match="4 pictures, but train-labels-idx1-ubyte has 3 labels"):
        open_source(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))
    (tmp_path / "train-images-idx3-ubyte").write_bytes((tmp_path / "train-images-idx3-ubyte").read_bytes()[:-1])
    with pytest.raises(UserError, match="99 bytes, but the header announces 100"):
        list(open_source(tmp_path))
