"""CIFAR's own files, written here from parts of photographs in the formats of its author."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageset.decoding.decoder import decode
from imageset.decoding.spec import DecodeSpec
from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.raw.records import read_records
from imageset.sources.factory import open_source
from tests.helpers.datasets import CIFAR_CLASSES, PickledCommand, pack_folder, write_cifar10, write_cifar100

SPEC = DecodeSpec(32, 3, "crop", "nearest", 10**6)


FORMS = [
    (write_cifar10, "bin", "cifar-10-batches-bin"),
    (write_cifar10, "py", "cifar-10-batches-py"),
    (write_cifar100, "bin", "cifar-100-binary"),
    (write_cifar100, "py", "cifar-100-python"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("make", "form", "name"), FORMS)
def test_every_form_of_cifar_gives_the_same_pictures_names_and_splits(
    tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray], make: Any, form: str, name: str, packed: bool
) -> None:
    root = make(tmp_path / "set" / name, pictures, form).parent
    source = open_source(pack_folder(root, tmp_path / f"{name}.tar.gz") if packed else root)
    found = list(source)
    assert source.kind == "cifar" and source.splits == {"train": 20, "test": 10}
    assert source.classes == dict.fromkeys(CIFAR_CLASSES, 10)
    assert "30 pictures in 3 classes (airplane 10, automobile 10, bird 10); splits test 10, train 20" in (
        source.describe()
    )
    ordered = sorted(found, key=lambda one: (one.split == "test", one.uri))
    assert [one.label for one in ordered] == [CIFAR_CLASSES[label] for label in pictures[1]]
    for one, pixels in zip(ordered, pictures[0], strict=True):
        np.testing.assert_array_equal(decode(one.read(), SPEC), pixels)


def test_the_two_forms_are_one_dataset(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    ingest_source(write_cifar10(tmp_path / "one" / "cifar", pictures, "bin"), tmp_path / "raw")
    summary = ingest_source(write_cifar10(tmp_path / "two" / "cifar", pictures, "py"), tmp_path / "raw")
    assert not summary.changed and len(read_records(tmp_path / "raw")) == 30


def test_a_hostile_batch_is_named_and_nothing_of_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_cifar10(tmp_path / "cifar", pictures, "py")
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": PickledCommand()}, protocol=2))
    with pytest.raises(UserError, match=r"data_batch_2: cannot be read safely: it names (posix|nt)\.system"):
        open_source(folder)
    assert not (tmp_path / "executed").exists()


def test_damaged_files_of_cifar_are_named(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    folder = write_cifar10(tmp_path / "cifar", pictures, "bin")
    whole = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin: 30,729 bytes are not a whole number of pictures"):
        open_source(folder)
    (folder / "test_batch.bin").write_bytes(b"\x09" + whole[1:])
    with pytest.raises(UserError, match="test_batch has the label 9, but there are 3 classes"):
        open_source(folder)
    (folder / "batches.meta.txt").unlink()
    assert open_source(folder).classes["9"] == 1


def test_an_archive_that_only_begins_otherwise_is_no_cifar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as target:
        for name in ("notes.txt", "cifar-10-batches-py/data_batch_1"):
            target.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="holds no pictures"):
        open_source(tmp_path / "set.tar")
