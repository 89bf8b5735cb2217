"""IDX files, the format of the MNIST family: http://yann.lecun.com/exdb/mnist/ describes it."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from imageset.exceptions import UserError
from imageset.html.png import encode_png
from imageset.sources.base import SourceImage, describe_source, slugify
from imageset.utils.text import format_class_count, format_count

_IMAGE_FILE_PATTERN = re.compile(r"^(?P<set>.*?)[-_.]?images([-_.]idx[34])?([-_.]ubyte)?(\.gz)?$")


def is_idx(path: Path) -> bool:
    """Return whether this is an IDX file of images, or a folder with some."""
    return bool(_list_image_files(path))


class IdxSource:
    """Pairs of `*images-idx3-ubyte` and `*labels-idx1-ubyte` files, gzipped or not.

    Names with train are the split train, those with t10k or test the split test.
    """

    kind = "idx"
    warnings: Sequence[str] = ()
    multi_label = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = slugify((path if path.is_dir() else path.parent).resolve().name)
        self.passed_over: Counter[str] = Counter()
        self.problem: str | None = None
        self._pairs = [_IdxPair(file) for file in _list_image_files(path)]
        self.classes = Counter(str(label) for pair in self._pairs for label in pair.labels.tolist())
        self.splits: Counter[str] = Counter()
        for pair in self._pairs:
            self.splits.update({pair.split: len(pair.labels)} if pair.split else {})
        if len(self.classes) < 2:
            kinds = format_class_count(len(self.classes), multi_label=False)
            raise UserError(f"{path}: {kinds}; at least two are needed to learn a difference")

    def __iter__(self) -> Iterator[SourceImage]:
        for pair in self._pairs:
            yield from pair

    def __len__(self) -> int:
        return sum(len(pair.labels) for pair in self._pairs)

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        files = ", ".join(pair.image_file.name for pair in self._pairs)
        return describe_source(self, str(self.path), f"IDX: {files}")


class _IdxPair:
    """One file of images with its file of labels.

    Attributes:
        image_file: path of the images.
        labels: uint8 (N,).
        split: "train", "test" or None, by the name.
    """

    def __init__(self, file: Path) -> None:
        self.image_file = file
        labels_file = _find_label_file(file)
        self.labels = read_idx(labels_file)
        self.split = _guess_split(file.name)
        if self.labels.ndim != 1:
            raise UserError(f"{labels_file}: does not hold a list of labels")
        num, num_labels = read_idx_shape(file)[0], len(self.labels)
        if num != num_labels:
            raise UserError(
                f"{file}: {format_count(num, 'picture')}, "
                f"but {labels_file.name} has {format_count(num_labels, 'label')}"
            )

    def __iter__(self) -> Iterator[SourceImage]:
        images = read_idx(self.image_file)  # (N, H, W) or (N, H, W, 3) uint8
        stem = self.image_file.name.removesuffix(".gz")
        for number, label in enumerate(self.labels.tolist()):
            uri = f"{stem}/{number:06d}.png"
            yield SourceImage(uri, str(label), None, self.split, partial(encode_png, images[number]))


def read_idx_shape(file: Path) -> tuple[int, ...]:
    """Return the shape in the header of an IDX file.

    Raises:
        UserError: it is not an IDX file of bytes, or is shorter than its header.
    """
    with _open_file(file) as stream:
        try:
            zeros, kind, num_dimensions = struct.unpack(">HBB", stream.read(4))
            shape = struct.unpack(f">{num_dimensions}I", stream.read(4 * num_dimensions))
        except (struct.error, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: damaged: {error}; download it again") from None
    if zeros != 0 or kind != 8 or not 1 <= num_dimensions <= 4:
        raise UserError(f"{file}: not an IDX file of bytes")
    return shape


def read_idx(file: Path) -> np.ndarray:
    """Read a whole IDX file of bytes, as uint8 of the shape in its header.

    Raises:
        UserError: it is not an IDX file, or is cut short.
    """
    shape = read_idx_shape(file)
    with _open_file(file) as stream:
        try:
            stream.read(4 + 4 * len(shape))
            data = stream.read()
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: damaged: {error}; download it again") from None
    expected = int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise UserError(f"{file}: {len(data):,} bytes, but the header announces {expected:,}; download it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _open_file(file: Path) -> gzip.GzipFile:
    with file.open("rb") as stream:
        is_gzipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file, "rb") if is_gzipped else file.open("rb")  # type: ignore[return-value]


def is_idx_image_name(name: str) -> bool:
    """Return whether the name is that of an IDX file of images."""
    return "idx" in name and bool(_IMAGE_FILE_PATTERN.match(name))


def is_idx_label_name(name: str) -> bool:
    """Return whether the name is that of an IDX file of labels."""
    return "idx1" in name and "labels" in name


def to_label_file_name(name: str) -> str:
    """Return the name of the label file that belongs to an image file."""
    return re.sub("idx[34]", "idx1", name.replace("images", "labels"))


def _list_image_files(path: Path) -> list[Path]:
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    matching = [file for file in candidates if _IMAGE_FILE_PATTERN.match(file.name) and file.is_file()]
    unique = [file for file in matching if file.suffix != ".gz" or file.with_suffix("") not in matching]
    return [file for file in unique if _is_image_file(file)]


def _is_image_file(file: Path) -> bool:
    try:
        return len(read_idx_shape(file)) in (3, 4)
    except (UserError, OSError):
        return "idx" in file.name and "ubyte" in file.name  # named like one; reading it reports the damage


def _find_label_file(file: Path) -> Path:
    name = to_label_file_name(file.name)
    for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
        if (file.parent / candidate).is_file():
            return file.parent / candidate
    raise UserError(f"{file}: its labels are missing; put {name} beside it")


def _guess_split(name: str) -> str | None:
    if "train" in name:
        return "train"
    return "test" if "t10k" in name or "test" in name else None
