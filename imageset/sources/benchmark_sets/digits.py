"""The 1,797 handwritten digits that ship with scikit-learn: real images that need no download."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from imageset.exceptions import UserError
from imageset.html.png import encode_png
from imageset.sources.base import SourceImage, describe_source
from imageset.utils.atomic_write import own_temporary

HELD_BACK_EVERY = 10


def load_digit_images() -> tuple[np.ndarray, np.ndarray]:
    """Return (pixels uint8 (1797, 8, 8), labels int64 (1797,))."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


def open_digits(spec: str) -> DigitsSource:
    """Open "sklearn://digits" as a source.

    Raises:
        UserError: any other name.
    """
    if spec != "sklearn://digits":
        raise UserError(f"{spec}: unknown; the set that ships with scikit-learn is sklearn://digits")
    return DigitsSource()


class DigitsSource:
    """The digits of scikit-learn, from memory."""

    name = kind = "digits"
    multi_label = False
    warnings: Sequence[str] = ()

    def __init__(self) -> None:
        self._pixels, self._labels = load_digit_images()
        self.passed_over: Counter[str] = Counter()
        self.problem: str | None = None
        self.classes = Counter(str(label) for label in self._labels.tolist())
        self.splits: Counter[str] = Counter()

    def __iter__(self) -> Iterator[SourceImage]:
        for number, label in enumerate(self._labels.tolist()):
            yield SourceImage(
                f"{label}/{number:04d}.png", str(label), None, None, partial(encode_png, self._pixels[number])
            )

    def __len__(self) -> int:
        return len(self._labels)

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        return describe_source(self, "sklearn://digits")


def write_digits(dest: str | Path, inbox: str | Path) -> tuple[int, int]:
    """Write the digits as PNG files: one folder per class under `dest`, every tenth, unlabelled, to `inbox`.

    Files that exist with the same bytes are not written again.

    Returns:
        (number of files written, number of files skipped).
    """
    pixels, labels = load_digit_images()
    num_written = 0
    for number, label in enumerate(labels.tolist()):
        held_back = number % HELD_BACK_EVERY == HELD_BACK_EVERY - 1
        path = Path(inbox) / f"{number:04d}.png" if held_back else Path(dest) / str(label) / f"{number:04d}.png"
        data = encode_png(pixels[number])
        if not (path.is_file() and path.read_bytes() == data):
            _write_file(path, data)
            num_written += 1
    return num_written, len(labels) - num_written


def _write_file(path: Path, data: bytes) -> None:
    with own_temporary(path) as temporary:
        temporary.write_bytes(data)  # no fsync: for 1,797 files it takes longer than everything else
        os.replace(temporary, path)
