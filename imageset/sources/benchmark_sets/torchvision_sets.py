"""Public sets by name, as torchvision knows and fetches them: torchvision://FashionMNIST, torchvision://Flowers102.

torchvision downloads, checks the MD5 that it knows, and unpacks; here that happens in a folder beside the target,
which is renamed when every split could be opened. Sets that are files on disk give those files' own bytes; sets
that are arrays give PNG. They stay in .cache/torchvision, or in $TORCH_HOME/datasets where that is set.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl

import numpy as np

from imageset.exceptions import UserError
from imageset.html.png import encode_png
from imageset.sources.base import SourceImage, describe_source, slugify
from imageset.sources.files import read_file
from imageset.utils.text import suggest_name
from imageset.utils.transient_errors import call_with_retries, is_transient

TORCHVISION_SCHEME = "torchvision://"

SplitArguments = Mapping[str | None, Mapping[str, Any]]  # our split -> what torchvision's class is called with

_TRAIN_FLAG: SplitArguments = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST: SplitArguments = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL_TEST: SplitArguments = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_NO_SPLITS: SplitArguments = {None: {}}

TORCHVISION_SETS: Mapping[str, SplitArguments] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), _TRAIN_FLAG),
    **dict.fromkeys(("Food101", "GTSRB", "LFWPeople", "STL10", "SVHN"), _TRAIN_TEST),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), _TRAIN_VAL_TEST),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _NO_SPLITS),
    "Country211": {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}},
    "EMNIST": _TRAIN_FLAG,  # which of its six sets: ?split=letters
    "Imagenette": {"train": {"split": "train"}, "val": {"split": "val"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "QMNIST": {"train": {"what": "train"}, "test": {"what": "test"}},
}
_DEFAULT_OPTIONS = {"EMNIST": {"split": "balanced"}}
_RESERVED_ARGUMENTS = frozenset(
    {"self", "root", "train", "download", "transform", "target_transform", "transforms", "loader"}
)


def check_torchvision_set(spec: str) -> tuple[str, dict[str, str]]:
    """Return (name, options) of "torchvision://NAME?option=value".

    Raises:
        UserError: no such set, or no such option of it.
    """
    name, _, query = spec.removeprefix(TORCHVISION_SCHEME).rstrip("/").partition("?")
    if name not in TORCHVISION_SETS:
        close = {one.lower(): one for one in TORCHVISION_SETS}
        hint = (
            suggest_name(name, TORCHVISION_SETS)
            if name.lower() not in close
            else f"did you mean '{close[name.lower()]}'?"
        )
        raise UserError(f"{TORCHVISION_SCHEME}{name}: no set of torchvision that is known here; {hint}")
    return name, _DEFAULT_OPTIONS.get(name, {}) | dict(parse_qsl(query))


def open_torchvision_set(spec: str) -> TorchvisionSource:
    """The source "torchvision://NAME"; fetches it where it is not there yet.

    Raises:
        UserError: no such set or option, or its home does not have it any more.
        ConnectionError: it could not be fetched; trying again may help.
    """
    name, options = check_torchvision_set(spec)
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    taken = _RESERVED_ARGUMENTS | {key for how in TORCHVISION_SETS[name].values() for key in how}
    allowed = [key for key in inspect.signature(kind.__init__).parameters if key not in taken]
    for key in options:
        if key not in allowed:
            hint = suggest_name(key, allowed) if allowed else "it has none"
            raise UserError(f"{spec}: '{key}' is no option of {name}; {hint}")
    folder = _find_cache_folder() / "-".join([name, *map(slugify, options.values())])
    if not folder.is_dir():
        _download(spec, kind, options, TORCHVISION_SETS[name], folder)
    return TorchvisionSource(
        spec, folder, _open_splits(spec, kind, options, TORCHVISION_SETS[name], folder, download=False)
    )


class TorchvisionSource:
    """A set of torchvision.datasets with all its splits."""

    kind = "public"
    multi_label = False

    def __init__(self, spec: str, folder: Path, splits: Mapping[str | None, Any]) -> None:
        self._spec, self._folder, self._splits = spec, folder, splits
        self.name = slugify(folder.name)
        self.problem: str | None = None
        self.passed_over: Counter[str] = Counter()
        self._names = {split: _read_class_names(dataset) for split, dataset in splits.items()}
        self._files = {split: _list_files(dataset) for split, dataset in splits.items()}
        self._pixels = {split: _read_pixels(dataset) for split, dataset in splits.items()}
        self._labels = {split: self._read_labels(split) for split in splits}
        self.classes = Counter(label for labels in self._labels.values() for label in labels)
        self.splits = Counter({split: len(labels) for split, labels in self._labels.items() if split})

    def __iter__(self) -> Iterator[SourceImage]:
        for split, labels in self._labels.items():
            files = self._files[split]
            for number, label in enumerate(labels):
                if files is not None:
                    uri, read = self._file(files[number][0])
                else:
                    uri = f"{split or 'all'}/{number:06d}.png"
                    read = partial(_encode_image, self._splits[split], self._pixels[split], number)
                yield SourceImage(uri, label, None, split, read)

    def __len__(self) -> int:
        return sum(map(len, self._labels.values()))

    def describe(self) -> str:
        return describe_source(self, self._spec, f"in {self._folder}")

    def _file(self, file: Path) -> tuple[str, Callable[[], bytes]]:
        return file.absolute().relative_to(self._folder.absolute()).as_posix(), partial(read_file, file)

    def _read_labels(self, split: str | None) -> list[str]:
        dataset, names, files = self._splits[split], self._names[split], self._files[split]
        if files is not None:
            numbers: Sequence[Any] = [label for _, label in files]
        else:
            found = (getattr(dataset, key, None) for key in ("targets", "labels", "y"))
            numbers = next((one for one in found if one is not None and len(one) == len(dataset)), None)  # type: ignore[arg-type]
            if numbers is None:
                numbers = [dataset[number][1] for number in range(len(dataset))]
        return [names[int(one)] if 0 <= int(one) < len(names) else str(int(one)) for one in numbers]


def _find_cache_folder() -> Path:
    set_by_hand = os.environ.get("TORCH_HOME")
    return Path(set_by_hand).expanduser() / "datasets" if set_by_hand else Path(".cache") / "torchvision"


def _download(spec: str, kind: Any, options: Mapping[str, str], splits: SplitArguments, folder: Path) -> None:
    """Let torchvision make the folder; it is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        call_with_retries(spec, lambda: _open_splits(spec, kind, options, splits, temporary, download=True))
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_splits(
    spec: str, kind: Any, options: Mapping[str, str], splits: SplitArguments, folder: Path, *, download: bool
) -> dict[str | None, Any]:
    """torchvision's dataset of each split.

    Raises:
        UserError: torchvision says why not.
        ConnectionError: a download failed in a way that may pass.
    """
    try:
        return {split: kind(folder, **how, **options, download=download) for split, how in splits.items()}
    except HTTPError:
        raise  # its status tells
    except URLError as error:
        raise ConnectionError(str(error.reason)) from None
    except ValueError as error:
        raise UserError(f"{spec}: {' '.join(str(error).split())}") from None
    except (RuntimeError, ModuleNotFoundError) as error:
        text = " ".join(str(error).split())
        gone = any(f"HTTP Error {status}" in text for status in (401, 403, 404, 410))
        broke_off = download and any(sign in text for sign in ("corrupted", "Error downloading"))
        if broke_off and not gone:
            raise ConnectionError(text) from None
        if not download and "download=True" in text:
            raise UserError(
                f"{spec}: {folder} does not hold the whole set; remove it, and it is fetched"
            ) from None
        raise UserError(f"{spec}: {text}") from None
    except OSError as error:
        if download or is_transient(error):
            raise
        raise UserError(f"{spec}: {folder} is damaged ({error}); remove it, and it is fetched again") from None


def _read_class_names(dataset: Any) -> list[str]:
    """The names by number; several names of one class (Imagenette) with commas between; none: called by number."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or []
    return [", ".join(one) if isinstance(one, tuple) else str(one) for one in names]


def _list_files(dataset: Any) -> list[tuple[Path, int]] | None:
    """(file, label) of each picture where torchvision's object says them (it has no one way), or None."""
    for key in ("samples", "_samples"):
        pairs = getattr(dataset, key, None)
        if pairs and isinstance(pairs[0][0], (str, Path)):
            return [(Path(pair[0]), int(pair[1])) for pair in pairs]
    for key in ("_image_files", "_images"):
        files, labels = getattr(dataset, key, None), getattr(dataset, "_labels", None)
        if files and labels is not None and isinstance(files[0], (str, Path)):
            return [(Path(file), int(label)) for file, label in zip(files, labels, strict=True)]
    return None


def _read_pixels(dataset: Any) -> np.ndarray | None:
    """uint8 (N, H, W) or (N, H, W, 3) where torchvision's object keeps its pictures so: one by one is slow."""
    data: Any = getattr(dataset, "data", None)
    pixels = data.numpy() if hasattr(data, "numpy") else data  # a tensor in the MNIST family
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or len(pixels) != len(dataset):
        return None
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    return pixels if pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3) else None


def _encode_image(dataset: Any, pixels: np.ndarray | None, number: int) -> bytes:
    if pixels is not None:
        return encode_png(np.ascontiguousarray(pixels[number]))
    picture = dataset[number][0]
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
    return encode_png(np.asarray(picture))
