"""The datasets of torchvision by name, as sources: torchvision://FashionMNIST, torchvision://Flowers102.

torchvision downloads a set, checks its MD5 if it is known, and unpacks it. This happens in a folder beside the
target, which is renamed once every split can be opened. Sets of files give the files' own bytes, sets of arrays
give PNG. They are stored in .cache/torchvision, or in $TORCH_HOME/datasets if that is set.
"""

from __future__ import annotations

import inspect
import os
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
from imageset.utils.atomic_write import replace_folder
from imageset.utils.text import suggest_name
from imageset.utils.transient_errors import call_with_retries, is_transient

TORCHVISION_SCHEME = "torchvision://"

SplitArguments = Mapping[str | None, Mapping[str, Any]]  # split -> arguments of torchvision's class

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
    "EMNIST": _TRAIN_FLAG,  # ?split=letters chooses another of its six sets
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
        UserError: the set is unknown. Unknown options are found by `open_torchvision_set`.
    """
    name, _, query = spec.removeprefix(TORCHVISION_SCHEME).rstrip("/").partition("?")
    if name not in TORCHVISION_SETS:
        by_lower = {known.lower(): known for known in TORCHVISION_SETS}
        hint = (
            suggest_name(name, TORCHVISION_SETS)
            if name.lower() not in by_lower
            else f"did you mean '{by_lower[name.lower()]}'?"
        )
        raise UserError(f"{TORCHVISION_SCHEME}{name}: not a known set of torchvision; {hint}")
    return name, _DEFAULT_OPTIONS.get(name, {}) | dict(parse_qsl(query))


def open_torchvision_set(spec: str) -> TorchvisionSource:
    """Open "torchvision://NAME" as a source; download the set if it is not there yet.

    Raises:
        UserError: the set or an option is unknown, or the set is no longer available.
        ConnectionError: the download failed with a transient error.
    """
    name, options = check_torchvision_set(spec)
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    reserved = _RESERVED_ARGUMENTS | {key for fixed in TORCHVISION_SETS[name].values() for key in fixed}
    allowed = [key for key in inspect.signature(kind.__init__).parameters if key not in reserved]
    for key in options:
        if key not in allowed:
            hint = suggest_name(key, allowed) if allowed else "it has no options"
            raise UserError(f"{spec}: '{key}' is not an option of {name}; {hint}")
    folder = _find_cache_folder() / "-".join([name, *map(slugify, options.values())])
    if not folder.is_dir():
        _download(spec, kind, options, TORCHVISION_SETS[name], folder)
    return TorchvisionSource(
        spec, folder, _open_splits(spec, kind, options, TORCHVISION_SETS[name], folder, download=False)
    )


class TorchvisionSource:
    """A set of torchvision.datasets with all its splits.

    Args:
        spec: name of the source in messages.
        folder: where the set is.
        splits: torchvision's dataset by split; None: the set has no splits.
    """

    kind = "public"
    warnings: Sequence[str] = ()
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
                    uri, read = self._build_reader(files[number][0])
                else:
                    uri = f"{split or 'all'}/{number:06d}.png"
                    read = partial(_encode_image, self._splits[split], self._pixels[split], number)
                yield SourceImage(uri, label, None, split, read)

    def __len__(self) -> int:
        return sum(map(len, self._labels.values()))

    def describe(self) -> str:
        """Return one line that describes the source as it was understood."""
        return describe_source(self, self._spec, f"in {self._folder}")

    def _build_reader(self, file: Path) -> tuple[str, Callable[[], bytes]]:
        return file.absolute().relative_to(self._folder.absolute()).as_posix(), partial(read_file, file)

    def _read_labels(self, split: str | None) -> list[str]:
        dataset, names, files = self._splits[split], self._names[split], self._files[split]
        if files is not None:
            numbers: Sequence[Any] = [label for _, label in files]
        else:
            candidates = (getattr(dataset, key, None) for key in ("targets", "labels", "y"))
            given = [values for values in candidates if values is not None and len(values) == len(dataset)]
            numbers = given[0] if given else [dataset[number][1] for number in range(len(dataset))]
        return [names[label] if 0 <= label < len(names) else str(label) for label in map(int, numbers)]


def _find_cache_folder() -> Path:
    torch_home = os.environ.get("TORCH_HOME")
    return Path(torch_home).expanduser() / "datasets" if torch_home else Path(".cache") / "torchvision"


def _download(spec: str, kind: Any, options: Mapping[str, str], splits: SplitArguments, folder: Path) -> None:
    """Let torchvision download a set to `folder`, whole or not at all."""
    with replace_folder(folder) as temporary:
        call_with_retries(spec, lambda: _open_splits(spec, kind, options, splits, temporary, download=True))


def _open_splits(
    spec: str, kind: Any, options: Mapping[str, str], splits: SplitArguments, folder: Path, *, download: bool
) -> dict[str | None, Any]:
    """Return torchvision's dataset of each split.

    Raises:
        UserError: the set cannot be opened, with torchvision's reason.
        ConnectionError: a download failed with a transient error.
        OSError: any other failure of a download; HTTPError has the status.
    """
    try:
        return {
            split: kind(folder, **arguments, **options, download=download) for split, arguments in splits.items()
        }
    except HTTPError:
        raise  # the caller decides by the status
    except URLError as error:
        raise ConnectionError(str(error.reason)) from None
    except ValueError as error:
        raise UserError(f"{spec}: {' '.join(str(error).split())}") from None
    except (RuntimeError, ModuleNotFoundError) as error:
        text = " ".join(str(error).split())
        is_gone = any(f"HTTP Error {status}" in text for status in (401, 403, 404, 410))
        is_interrupted = download and any(sign in text for sign in ("corrupted", "Error downloading"))
        if is_interrupted and not is_gone:
            raise ConnectionError(text) from None
        if not download and "download=True" in text:
            raise UserError(
                f"{spec}: {folder} does not hold the whole set; remove the folder to download the set"
            ) from None
        raise UserError(f"{spec}: {text}") from None
    except OSError as error:
        if download or is_transient(error):
            raise
        raise UserError(
            f"{spec}: {folder} is damaged ({error}); remove the folder to download the set again"
        ) from None


def _read_class_names(dataset: Any) -> list[str]:
    """Return the class names, or an empty list; several names of one class (Imagenette) are joined by commas."""
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or []
    return [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]


def _list_files(dataset: Any) -> list[tuple[Path, int]] | None:
    """Return (file, label) of each image if torchvision's object holds them, or None.

    There is no common public way. The private attributes were read in torchvision 0.29.2; without them a set gives
    PNG instead of its own files.
    """
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
    """Return uint8 (N, H, W) or (N, H, W, 3) if torchvision's object holds such an array, or None.

    Reading image by image is slow.
    """
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
    image = dataset[number][0]
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    return encode_png(np.asarray(image))
