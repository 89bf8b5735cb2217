"""CIFAR-10 and CIFAR-100 as their author gives them; https://www.cs.toronto.edu/~kriz/cifar.html describes them.

The binary form (data_batch_1.bin ..., test_batch.bin; train.bin, test.bin) and the Python form (data_batch_1 ...;
train, test), which is read without unpickling (imageset.sources.benchmark_sets.safe_pickle). In a folder, or in the archive it came in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imageset.exceptions import UserError
from imageset.html.png import encode_png
from imageset.sources.archive import is_archive, iter_members, read_member
from imageset.sources.base import SourceImage, describe_source, slugify
from imageset.sources.benchmark_sets.safe_pickle import UnsafePickle, read_plain_pickle
from imageset.utils.text import format_class_count, format_count

CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-100-binary", "cifar-100-python")
_CIFAR10_FILE = re.compile(r"^(data_batch_\d+|test_batch)(\.bin)?$")
_CIFAR100_FILE = re.compile(r"^(train|test)(\.bin)?$")
_NAME_FILES = ("batches.meta.txt", "batches.meta", "fine_label_names.txt", "meta")
_SIDE, _IMAGE_BYTES = 32, 3 * 32 * 32
_MAX_FILE_BYTES = 1 << 30


class _CifarBatch(NamedTuple):
    """One file: pixels uint8 (N, 3072), red then green then blue, each row by row; labels int64 (N,)."""

    stem: str
    split: str
    pixels: np.ndarray
    labels: np.ndarray


def find_cifar(path: Path) -> CifarSource | None:
    """The source, if this is a folder or an archive of CIFAR's own files."""
    if is_archive(path):
        return CifarSource(path, path.name.partition(".")[0]) if _is_cifar_archive(path) else None
    for folder in [path, *(path / name for name in CIFAR_FOLDERS)] if path.is_dir() else []:
        if folder.is_dir() and _are_cifar_names({file.name for file in folder.iterdir() if file.is_file()}):
            return CifarSource(folder, path.resolve().name)
    return None


def is_cifar_name(name: str) -> bool:
    """Whether a file of this name may be one of CIFAR's."""
    return bool(_CIFAR10_FILE.match(name) or _CIFAR100_FILE.match(name)) or name in _NAME_FILES


def _are_cifar_names(names: set[str]) -> bool:
    """Whether files of these names are one of the four forms (the names of CIFAR-100's Python form are common)."""
    if any(_CIFAR10_FILE.match(name) for name in names):
        return True
    return {"train.bin", "fine_label_names.txt"} <= names or {"train", "test", "meta"} <= names


def _is_cifar_archive(path: Path) -> bool:
    """By the first file alone: to look at all of a large archive would take as long as to read it."""
    for member in iter_members(path, Counter()):
        *folders, name = member.name.split("/")
        return bool(_CIFAR10_FILE.match(name)) or any(folder in CIFAR_FOLDERS for folder in folders)
    return False


class CifarSource:
    """The pictures of CIFAR's files, as PNG; batches are training, test is test; CIFAR-100 by its fine labels."""

    kind = "cifar"
    multi_label = False

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, slugify(name)
        self.passed_over: Counter[str] = Counter()
        self.problem: str | None = None
        self._names = self._read_names()
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        for batch in self._batches():
            self.classes.update(self._name(batch, label) for label in batch.labels.tolist())
            self.splits[batch.split] += len(batch.labels)
        if len(self.classes) < 2:
            kinds = format_class_count(len(self.classes), multi_label=False)
            raise UserError(f"{path}: {kinds}; at least two are needed to learn a difference")

    def __iter__(self) -> Iterator[SourceImage]:
        for batch in self._batches():
            for number, label in enumerate(batch.labels.tolist()):
                pixels = batch.pixels[number].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)  # (32, 32, 3)
                uri = f"{batch.stem}/{number:05d}.png"
                yield SourceImage(uri, self._name(batch, label), None, batch.split, partial(_encode_image, pixels))

    def __len__(self) -> int:
        return self.splits.total()

    def describe(self) -> str:
        return describe_source(self, str(self.path), f"CIFAR-{100 if len(self._names) > 10 else 10}")

    def _name(self, batch: _CifarBatch, label: int) -> str:
        if not self._names:
            return str(label)
        if not 0 <= label < len(self._names):
            raise UserError(f"{self.path}: {batch.stem} has the label {label}, of {len(self._names)} classes")
        return self._names[label]

    def _batches(self) -> Iterator[_CifarBatch]:
        """One file after another; only one is in memory."""
        for name, read in self._files():
            if match := _CIFAR10_FILE.match(name) or _CIFAR100_FILE.match(name):
                stem, data = match[1], read()
                pixels, labels = self._read(name, data)
                yield _CifarBatch(stem, "test" if stem.startswith("test") else "train", pixels, labels)

    def _files(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        if self.path.is_dir():
            for file in sorted(self.path.iterdir()):
                if file.is_file() and not file.is_symlink():
                    yield file.name, file.read_bytes
        else:
            for member in iter_members(self.path, Counter()):
                yield member.name.rpartition("/")[2], partial(read_member, member, _MAX_FILE_BYTES)

    def _read_names(self) -> list[str]:
        """The class names; none where the file that says them is missing: then classes are called by number."""
        for name, read in self._files():
            if name in _NAME_FILES[::2]:
                return read().decode("utf-8", errors="replace").split()
            if name in _NAME_FILES[1::2]:
                meta = self._plain(name, read())
                names = meta.get("fine_label_names") or meta.get("label_names") or []
                return [one.decode() if isinstance(one, bytes) else str(one) for one in names]
        return []

    def _read(self, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """(pixels (N, 3072), labels (N,)) of one file."""
        if name.endswith(".bin"):
            num_labels = 2 if _CIFAR100_FILE.match(name) else 1  # CIFAR-100: coarse, fine
            if not data or len(data) % (num_labels + _IMAGE_BYTES):
                raise UserError(f"{self.path}: {name}: {len(data):,} bytes are no whole pictures; fetch it again")
            records = np.frombuffer(data, np.uint8).reshape(-1, num_labels + _IMAGE_BYTES)
            return records[:, num_labels:], records[:, num_labels - 1].astype(np.int64)
        content = self._plain(name, data)
        pixels, labels = content.get("data"), content.get("fine_labels", content.get("labels"))
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not isinstance(labels, list):
            raise UserError(f"{self.path}: {name}: holds no pictures with labels as CIFAR keeps them")
        if pixels.shape != (len(labels), _IMAGE_BYTES):
            raise UserError(f"{self.path}: {name}: {pixels.shape} pixels for {format_count(len(labels), 'label')}")
        return pixels, np.array(labels, np.int64)

    def _plain(self, name: str, data: bytes) -> dict[str, Any]:
        try:
            return read_plain_pickle(data)
        except UnsafePickle as error:
            raise UserError(
                f"{self.path}: {name}: is not read: {error}; fetch it again from a place you trust"
            ) from None


def _encode_image(pixels: np.ndarray) -> bytes:
    return encode_png(np.ascontiguousarray(pixels))
