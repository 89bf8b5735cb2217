"""CIFAR-10 and CIFAR-100 in the forms of their author; https://www.cs.toronto.edu/~kriz/cifar.html describes them.

The binary form is data_batch_1.bin ..., test_batch.bin; train.bin, test.bin. The Python form is data_batch_1 ...;
train, test; it is read without unpickling (imageset.sources.benchmark_sets.safe_pickle). Both are read in a folder
or in the original archive.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
    """One file of images.

    Attributes:
        stem: name of the file without its extension.
        split: "train" or "test".
        pixels: uint8 (N, 3072), red, then green, then blue, each row by row.
        labels: int64 (N,).
    """

    stem: str
    split: str
    pixels: np.ndarray
    labels: np.ndarray


def find_cifar(path: Path) -> CifarSource | None:
    """Open a folder or an archive of CIFAR's own files as a source; return None for any other path."""
    if is_archive(path):
        return CifarSource(path, path.name.partition(".")[0]) if _is_cifar_archive(path) else None
    for folder in [path, *(path / name for name in CIFAR_FOLDERS)] if path.is_dir() else []:
        if folder.is_dir() and _are_cifar_names({file.name for file in folder.iterdir() if file.is_file()}):
            return CifarSource(folder, path.resolve().name)
    return None


def is_cifar_name(name: str) -> bool:
    """Return whether a file of this name may belong to CIFAR."""
    return bool(_CIFAR10_FILE.match(name) or _CIFAR100_FILE.match(name)) or name in _NAME_FILES


def _are_cifar_names(names: set[str]) -> bool:
    """Return whether files of these names are one of the four forms.

    The names of CIFAR-100's Python form are common, so all three are required.
    """
    if any(_CIFAR10_FILE.match(name) for name in names):
        return True
    return {"train.bin", "fine_label_names.txt"} <= names or {"train", "test", "meta"} <= names


def _is_cifar_archive(path: Path) -> bool:
    """Return whether an archive holds CIFAR, by its first file.

    Listing a large archive takes as long as reading it.
    """
    for member in iter_members(path, Counter()):
        *folders, name = member.name.split("/")
        return bool(_CIFAR10_FILE.match(name)) or any(folder in CIFAR_FOLDERS for folder in folders)
    return False


class CifarSource:
    """The images of CIFAR's files as PNG; data batches are train, CIFAR-100 has its fine labels."""

    kind = "cifar"
    warnings: Sequence[str] = ()
    multi_label = False

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, slugify(name)
        self.passed_over: Counter[str] = Counter()
        self.problem: str | None = None
        self._names = self._read_names()
        self.classes: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        for batch in self._iter_batches():
            self.classes.update(self._get_class_name(batch, label) for label in batch.labels.tolist())
            self.splits[batch.split] += len(batch.labels)
        if len(self.classes) < 2:
            kinds = format_class_count(len(self.classes), multi_label=False)
            raise UserError(f"{path}: {kinds}; at least two are needed to learn a difference")

    def __iter__(self) -> Iterator[SourceImage]:
        for batch in self._iter_batches():
            for number, label in enumerate(batch.labels.tolist()):
                pixels = batch.pixels[number].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)  # (32, 32, 3)
                uri = f"{batch.stem}/{number:05d}.png"
                yield SourceImage(
                    uri, self._get_class_name(batch, label), None, batch.split, partial(_encode_image, pixels)
                )

    def __len__(self) -> int:
        return self.splits.total()

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        return describe_source(self, str(self.path), f"CIFAR-{100 if len(self._names) > 10 else 10}")

    def _get_class_name(self, batch: _CifarBatch, label: int) -> str:
        if not self._names:
            return str(label)
        if not 0 <= label < len(self._names):
            raise UserError(
                f"{self.path}: {batch.stem} has the label {label}, but there are {len(self._names)} classes"
            )
        return self._names[label]

    def _iter_batches(self) -> Iterator[_CifarBatch]:
        """Yield one file after another; only one is in memory."""
        for name, read in self._iter_files():
            if match := _CIFAR10_FILE.match(name) or _CIFAR100_FILE.match(name):
                stem, data = match[1], read()
                pixels, labels = self._parse_batch(name, data)
                yield _CifarBatch(stem, "test" if stem.startswith("test") else "train", pixels, labels)

    def _iter_files(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        if self.path.is_dir():
            for file in sorted(self.path.iterdir()):
                if file.is_file() and not file.is_symlink():
                    yield file.name, file.read_bytes
        else:
            for member in iter_members(self.path, Counter()):
                yield member.name.rpartition("/")[2], partial(read_member, member, _MAX_FILE_BYTES)

    def _read_names(self) -> list[str]:
        """Return the class names; an empty list if their file is missing, then classes are named by number."""
        for name, read in self._iter_files():
            if name in _NAME_FILES[::2]:
                return read().decode("utf-8", errors="replace").split()
            if name in _NAME_FILES[1::2]:
                meta = self._read_pickle(name, read())
                names = meta.get("fine_label_names") or meta.get("label_names") or []
                return [
                    class_name.decode() if isinstance(class_name, bytes) else str(class_name)
                    for class_name in names
                ]
        return []

    def _parse_batch(self, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return (pixels uint8 (N, 3072), labels int64 (N,)) of one file."""
        if name.endswith(".bin"):
            num_labels = 2 if _CIFAR100_FILE.match(name) else 1  # CIFAR-100: coarse, fine
            if not data or len(data) % (num_labels + _IMAGE_BYTES):
                raise UserError(
                    f"{self.path}: {name}: {len(data):,} bytes are not a whole number of pictures; "
                    "download it again"
                )
            records = np.frombuffer(data, np.uint8).reshape(-1, num_labels + _IMAGE_BYTES)
            return records[:, num_labels:], records[:, num_labels - 1].astype(np.int64)
        content = self._read_pickle(name, data)
        pixels, labels = content.get("data"), content.get("fine_labels", content.get("labels"))
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or not isinstance(labels, list):
            raise UserError(
                f"{self.path}: {name}: does not hold pictures with labels in CIFAR's format; download it again"
            )
        if pixels.shape != (len(labels), _IMAGE_BYTES):
            raise UserError(f"{self.path}: {name}: {pixels.shape} pixels for {format_count(len(labels), 'label')}")
        return pixels, np.array(labels, np.int64)

    def _read_pickle(self, name: str, data: bytes) -> dict[str, Any]:
        try:
            return read_plain_pickle(data)
        except UnsafePickle as error:
            raise UserError(
                f"{self.path}: {name}: cannot be read safely: {error}; download it again from a trusted source"
            ) from None


def _encode_image(pixels: np.ndarray) -> bytes:
    return encode_png(np.ascontiguousarray(pixels))
