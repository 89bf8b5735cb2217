from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore, find_damaged_dataset_files
from tests.helpers.datasets import drop_digests, flip_bit, make_store
from tests.helpers.images import make_image_folder


def test_a_store_travels_to_another_process_without_its_pixels(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"), size_px=256)
    store.split("train").read_batch(np.array([0]))
    assert len(pickle.dumps(store.split("train"))) < 100_000


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("dataset.json", None, "no such file"),
        ("dataset.json", b"{", "not readable"),
        ("dataset.json", b"{}", "not a dataset of the format"),
        ("index.parquet", None, "missing or damaged"),
        ("index.parquet", b"PAR1PAR1", "missing or damaged"),
        ("images-00000.npy", None, "missing"),
        ("images-00000.npy", b"cut", "damaged or cut short"),
        ("images-00000.npy", b"", "damaged or cut short"),
    ],
)
def test_a_broken_dataset_is_named_with_the_way_out(
    tmp_path: Path, file: str, damage: bytes | None, message: str
) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"))
    path = store.path / file
    if damage is None:
        path.unlink()
    elif damage == b"cut":
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.write_bytes(damage)
    with pytest.raises(UserError) as caught:
        ImageStore.open(store.path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "dvc repro -f normalize" in str(caught.value)


def test_a_flipped_bit_is_named_when_the_dataset_is_opened(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"))
    for name in ("dataset.json", "index.parquet", "images-00000.npy"):
        before = (store.path / name).read_bytes()
        for position in (0.3, 0.5, 0.7, 1.0):
            flip_bit(store.path / name, position)
            with pytest.raises(UserError, match=rf"{name}: .*`dvc repro -f normalize`"):
                ImageStore.open(store.path)
            (store.path / name).write_bytes(before)
    ImageStore.open(store.path)


def test_pixels_are_read_once_and_again_after_a_change_and_thoroughly_every_week(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()  # the record of checks is in a project's .cache
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"))
    flip_bit(store.path / "images-00000.npy", keep_time=True)
    with pytest.raises(UserError, match="damaged"):  # another inode
        ImageStore.open(store.path)
    store = make_store(tmp_path, tmp_path / "set")
    path = store.path / "images-00000.npy"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"rot")
    os.utime(path, ns=times)
    ImageStore.open(store.path)
    assert find_damaged_dataset_files(store.path) == ["images-00000.npy"]
    with pytest.raises(UserError, match="damaged"):
        ImageStore.open(store.path)


def test_a_dataset_that_has_no_digests_is_opened_as_before(tmp_path: Path) -> None:
    store = make_store(tmp_path, make_image_folder(tmp_path / "set"))
    drop_digests(store.path)
    flip_bit(store.path / "images-00000.npy", 0.9)
    assert len(ImageStore.open(store.path).index) == len(store.index)
    assert find_damaged_dataset_files(store.path) == []
