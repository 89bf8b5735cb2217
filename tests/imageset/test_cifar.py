"""CIFAR's own files, written here from CIFAR's own pictures in the formats of its author."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imageset.decode import DecodeSpec, decode
from imageset.errors import UserError
from imageset.raw import ingest, read_records
from imageset.sources import open_source
from imageset.unpickle import NotPlain, read_plain_pickle
from tests.imageset.real import first_of_each_folder
from tests.imageset.test_more_sources import pack

CLASSES = ("airplane", "automobile", "bird")
SPEC = DecodeSpec(32, 3, "crop", "nearest", 10**6)


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (30, 32, 32, 3) and labels (30,) of CIFAR-10, mixed."""
    found = first_of_each_folder("cifar10.tar.gz", 10, 3)
    order = np.random.default_rng(0).permutation(30)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found.values()])
    labels = np.array([CLASSES.index(name.split("/")[1]) for name in found])
    return pixels[order], labels[order]


def planes(pixels: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) -> (N, 3072): red, green, blue."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)


KEYS = (
    b"data labels filenames batch_label label_names num_vis num_cases_per_batch fine_labels coarse_labels "
    b"fine_label_names coarse_label_names"
).split()


def python_2_pickle(value: Any) -> bytes:
    """Protocol 2 as in the original files: keys are Python 2's texts, numpy's module is called as it was then."""
    data = pickle.dumps(value, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for key in KEYS:
        data = data.replace(b"X" + len(key).to_bytes(4, "little") + key, b"U" + bytes([len(key)]) + key)
    return data


def ten(folder: Path, pictures: tuple[np.ndarray, np.ndarray], form: str) -> Path:
    """Batches of 10: two for training, one for the test."""
    pixels, labels = planes(pictures[0]), pictures[1]
    folder.mkdir(parents=True)
    for start, name in zip((0, 10, 20), ("data_batch_1", "data_batch_2", "test_batch"), strict=True):
        some, theirs = pixels[start : start + 10], labels[start : start + 10]
        if form == "bin":
            records = np.concatenate([theirs[:, None].astype(np.uint8), some], 1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            content = {
                "batch_label": b"training batch 1 of 5", "labels": theirs.tolist(), "data": some,
                "filenames": [f"plane_s_{number:06d}.png".encode() for number in range(10)],
            }  # fmt: skip
            (folder / name).write_bytes(python_2_pickle(content))
    if form == "bin":
        (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    else:
        meta = {"num_cases_per_batch": 10, "label_names": list(CLASSES), "num_vis": 3072}
        (folder / "batches.meta").write_bytes(python_2_pickle(meta))
    (folder / "readme.html").write_text("<html>")
    return folder


def hundred(folder: Path, pictures: tuple[np.ndarray, np.ndarray], form: str) -> Path:
    """train and test, with coarse labels that are not to be taken."""
    pixels, labels = planes(pictures[0]), pictures[1]
    folder.mkdir(parents=True)
    for some, name in ((slice(0, 20), "train"), (slice(20, 30), "test")):
        if form == "bin":
            both = np.stack([np.zeros_like(labels[some]), labels[some]], 1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(np.concatenate([both, pixels[some]], 1).tobytes())
        else:
            content = {"fine_labels": labels[some].tolist(), "coarse_labels": [0] * 20, "data": pixels[some]}
            (folder / name).write_bytes(python_2_pickle(content))
    if form == "bin":
        (folder / "fine_label_names.txt").write_text("\n".join(CLASSES) + "\n")
        (folder / "coarse_label_names.txt").write_text("vehicles\n")
    else:
        (folder / "meta").write_bytes(
            python_2_pickle({"fine_label_names": list(CLASSES), "coarse_label_names": ["vehicles"]})
        )
    return folder


FORMS = [
    (ten, "bin", "cifar-10-batches-bin"),
    (ten, "py", "cifar-10-batches-py"),
    (hundred, "bin", "cifar-100-binary"),
    (hundred, "py", "cifar-100-python"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("make", "form", "name"), FORMS)
def test_every_form_of_cifar_gives_the_same_pictures_names_and_splits(
    tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray], make: Any, form: str, name: str, packed: bool
) -> None:
    root = make(tmp_path / "set" / name, pictures, form).parent
    source = open_source(pack(root, tmp_path / f"{name}.tar.gz") if packed else root)
    found = list(source)
    assert source.kind == "cifar" and source.splits == {"train": 20, "test": 10}
    assert source.classes == dict.fromkeys(CLASSES, 10)
    assert "30 pictures in 3 classes (airplane 10, automobile 10, bird 10); splits test 10, train 20" in (
        source.describe()
    )
    ordered = sorted(found, key=lambda one: (one.split == "test", one.uri))
    assert [one.label for one in ordered] == [CLASSES[label] for label in pictures[1]]
    for one, pixels in zip(ordered, pictures[0], strict=True):
        np.testing.assert_array_equal(decode(one.read(), SPEC), pixels)


def test_the_two_forms_are_one_dataset(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    ingest(ten(tmp_path / "one" / "cifar", pictures, "bin"), tmp_path / "raw")
    summary = ingest(ten(tmp_path / "two" / "cifar", pictures, "py"), tmp_path / "raw")
    assert not summary.changed and len(read_records(tmp_path / "raw")) == 30


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


class Subtle:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, ("text", "upper")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("evil", [Evil(), Subtle(), eval, object(), Path("x")])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: Any, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotPlain):
        read_plain_pickle(pickle.dumps({"data": evil}, protocol=protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.extra"[:4],
        b"not a pickle at all",
        b"cos\nsystem\n(S'touch executed'\ntR.",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(K\xfftcnumpy\ndtype\nX\x01\x00\x00\x00OR)tb.",
    ],
)
def test_a_damaged_or_twisted_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotPlain):
        read_plain_pickle(data)
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_read_equals_what_python_would_read() -> None:
    value = {
        b"data": np.arange(6144, dtype=np.uint8).reshape(2, 3072), b"labels": [1, -2, 300, 70_000, 2**40],
        b"filenames": [b"a" * 300, b"b"], b"ok": True, b"nothing": None, b"share": 0.5,
    }  # fmt: skip
    value[b"data"] = np.asfortranarray(value[b"data"])
    for protocol in (0, 1, 2):
        found = read_plain_pickle(pickle.dumps(value, protocol=protocol))
        np.testing.assert_array_equal(found.pop("data"), value[b"data"])
        assert found == {key.decode(): one for key, one in value.items() if key != b"data"}


def test_a_hostile_batch_is_named_and_nothing_of_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ten(tmp_path / "cifar", pictures, "py")
    (folder / "data_batch_2").write_bytes(pickle.dumps({"data": Evil()}, protocol=2))
    with pytest.raises(UserError, match=r"data_batch_2: is not read: it names (posix|nt)\.system"):
        open_source(folder)
    assert not (tmp_path / "executed").exists()


def test_damaged_files_of_cifar_are_named(tmp_path: Path, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    folder = ten(tmp_path / "cifar", pictures, "bin")
    whole = (folder / "test_batch.bin").read_bytes()
    (folder / "test_batch.bin").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin: 30,729 bytes are no whole pictures"):
        open_source(folder)
    (folder / "test_batch.bin").write_bytes(b"\x09" + whole[1:])
    with pytest.raises(UserError, match="test_batch has the label 9, of 3 classes"):
        open_source(folder)
    (folder / "batches.meta.txt").unlink()
    assert open_source(folder).classes["9"] == 1


def test_an_archive_that_only_begins_otherwise_is_no_cifar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as target:
        for name in ("notes.txt", "cifar-10-batches-py/data_batch_1"):
            target.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="holds no pictures"):
        open_source(tmp_path / "set.tar")
