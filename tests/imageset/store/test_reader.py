from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from imageset.exceptions import UserError
from imageset.store.reader import ImageStore
from tests.helpers.datasets import make_store
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
