"""Layouts of folders: classes, splits, and the layouts of ImageNet and Tiny ImageNet.

A layout is detected from the names alone (POSIX paths relative to the source) and from a few small text files, so
that folders, archives and listings of buckets are understood alike.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from imageset.class_names import normalize_class_name
from imageset.exceptions import UserError
from imageset.sources.base import PathLabel

SPLIT_BY_FOLDER = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

# The text files of ImageNet's and Tiny ImageNet's layouts, and the folders that they may be in.
MAPPING, VAL_SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
GROUND_TRUTH, META, MAP_CLSLOC = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "map_clsloc.txt"
WORDS, VAL_ANNOTATIONS = "words.txt", "val_annotations.txt"
LAYOUT_FILES = (MAPPING, VAL_SOLUTION, GROUND_TRUTH, META, MAP_CLSLOC, WORDS, VAL_ANNOTATIONS)
LAYOUT_FILE_FOLDERS = ("", "ILSVRC2012_devkit_t12/data/", "devkit/data/", "data/", "val/")
MAX_LAYOUT_FILE_BYTES = 64 << 20

_SYNSET = re.compile(r"^n\d{8}$")


class Layout(NamedTuple):
    """A layout of folders.

    Attributes:
        parse_path: returns the label and split of an image by its path, or None if the image is passed over.
        note: the name of the layout, for the description of the source.
        skip_cause: the cause under which images are passed over.
    """

    parse_path: Callable[[str], PathLabel | None]
    note: str = ""
    skip_cause: str = "unlabelled pictures of a split"


def detect_layout(
    label: str, names: Sequence[str], layout_files: Mapping[str, bytes], *, skip_common_folders: bool
) -> Layout:
    """Return the layout of a source.

    Args:
        label: name of the source in messages.
        names: POSIX paths of the images, relative to the source.
        layout_files: content by name of the files in LAYOUT_FILES.
        skip_common_folders: ignore folders that are around all images, such as an archive's own top folder.

    Raises:
        UserError: ImageNet's validation images without a file that gives their labels.
    """
    if _is_imagenet(names, layout_files):
        return _build_imagenet_layout(label, names, layout_files)
    return normalize_labels(_build_folder_layout(names, skip_common_folders), names)


def normalize_labels(layout: Layout, names: Iterable[str]) -> Layout:
    """Return a layout whose labels have one spelling (imageset.class_names); unchanged if they have already."""
    example_by_folder = {name.rpartition("/")[0]: name for name in names}
    labels = {found.label for name in example_by_folder.values() if (found := layout.parse_path(name))}
    odd = sorted(label for label in labels if label is not None and normalize_class_name(label) != label)
    if not odd:
        return layout

    def parse_path(name: str) -> PathLabel | None:
        found = layout.parse_path(name)
        return found and PathLabel(normalize_class_name(found.label or "") or None, found.split)

    note = f"class names in Unicode NFC without blanks around them, as '{normalize_class_name(odd[0])}'"
    return layout._replace(parse_path=parse_path, note="; ".join(filter(None, [layout.note, note])))


def guess_split_from_name(name: str) -> str | None:
    """Return the split in a file's name: "train-00000-of-00002" -> "train", "imagenet_val.001" -> "val"."""
    splits = {SPLIT_BY_FOLDER.get(part) for part in re.split(r"[-_. ]+", name.lower())} - {None}
    return splits.pop() if len(splits) == 1 else None


def guess_split_from_path(name: str) -> str | None:
    """Return the split in a path, searched from its last part: "train/shard-000.tar" -> "train"."""
    for part in reversed(name.split("/")):
        if split := guess_split_from_name(part):
            return split
    return None


# ---- one folder per class --------------------------------------------------------------------------------------


def _build_folder_layout(names: Sequence[str], skip_common_folders: bool) -> Layout:
    folders = {name.rpartition("/")[0] for name in names}
    paths = [tuple(folder.split("/")) if folder else () for folder in folders]
    skip = _count_common_folders(paths) if skip_common_folders else 0
    tops = {path[skip].lower() for path in paths if len(path) > skip}
    nested = {path[skip].lower() for path in paths if len(path) > skip + 1}
    is_split = (
        bool(tops) and tops <= SPLIT_BY_FOLDER.keys() and "train" in {SPLIT_BY_FOLDER[top] for top in nested}
    )

    def parse_path(name: str) -> PathLabel | None:
        inside = name.split("/")[skip:-1]
        if not is_split:
            return PathLabel(inside[0] if inside else None, None)
        if len(inside) < 2:
            return None
        return PathLabel(inside[1], SPLIT_BY_FOLDER[inside[0].lower()])

    return Layout(parse_path)


def _count_common_folders(folders: Sequence[tuple[str, ...]]) -> int:
    """Return how many folders are around all images and hold no image themselves."""
    num = 0
    while folders and all(len(path) > num + 1 for path in folders) and len({path[num] for path in folders}) == 1:
        num += 1
    return num


# ---- ImageNet --------------------------------------------------------------------------------------------------


def _is_imagenet(names: Sequence[str], layout_files: Mapping[str, bytes]) -> bool:
    """Return whether there are synset folders, with a layout file, or below train/ beside a flat val/."""
    folders = {name.rpartition("/")[0] for name in names}
    paths = [folder.split("/") for folder in folders]
    if not any(_SYNSET.match(folder) for path in paths for folder in path):
        return False
    has_train_synsets = any(split == "train" and synset for split, synset in map(_parse_split_and_synset, paths))
    has_flat_val = any(split == "val" and not synset for split, synset in map(_parse_split_and_synset, paths))
    return bool(layout_files) or (has_train_synsets and has_flat_val)


def _parse_split_and_synset(folders: Sequence[str]) -> tuple[str | None, str | None]:
    """Parse the folders above an image: ILSVRC/Data/CLS-LOC/train/n01440764 -> ("train", "n01440764")."""
    split = next((SPLIT_BY_FOLDER[name.lower()] for name in folders if name.lower() in SPLIT_BY_FOLDER), None)
    return split, next((name for name in folders if _SYNSET.match(name)), None)


def _build_imagenet_layout(label: str, names: Sequence[str], layout_files: Mapping[str, bytes]) -> Layout:
    ids, words = _read_synsets(label, layout_files)
    find_val_synset, val_files = _build_val_lookup(label, names, layout_files, ids)

    def parse_path(name: str) -> PathLabel | None:
        *folders, file = name.split("/")
        split, synset = _parse_split_and_synset(folders)
        if synset is None and split == "val":
            synset = find_val_synset(file)
        return None if synset is None else PathLabel(words.get(synset, synset), split)

    used = [file for file in (MAPPING, META, MAP_CLSLOC, WORDS) if file in layout_files][:1] + val_files
    return Layout(parse_path, "ImageNet's layout" + (f", with {' and '.join(used)}" if used else ""))


def _read_synsets(label: str, layout_files: Mapping[str, bytes]) -> tuple[dict[int, str], dict[str, str]]:
    """Return (synset by ILSVRC2012 id, name by synset); a name of several synsets ends with "(synset)"."""
    ids: dict[int, str] = {}
    words: dict[str, str] = {}
    if MAP_CLSLOC in layout_files:  # "n02119789 1 kit_fox"
        rows = [line.split() for line in _read_lines(layout_files, MAP_CLSLOC)]
        ids = {int(row[1]): row[0] for row in rows if len(row) > 2 and row[1].isdigit()}
        words = {row[0]: row[2].replace("_", " ") for row in rows if len(row) > 2}
    if META in layout_files:
        ids, words = _read_meta(label, layout_files[META])
    if WORDS in layout_files:  # Tiny ImageNet: "n00001740<tab>entity"
        words = dict(_parse_pair(line, "\t") for line in _read_lines(layout_files, WORDS))
    if MAPPING in layout_files:  # "n01440764 tench, Tinca tinca"
        words = dict(_parse_pair(line, " ") for line in _read_lines(layout_files, MAPPING))
    num_synsets = Counter(words.values())
    return ids, {
        synset: f"{name} ({synset})" if num_synsets[name] > 1 else name for synset, name in words.items() if name
    }


def _read_meta(label: str, data: bytes) -> tuple[dict[int, str], dict[str, str]]:
    """Return (synset by id, name by synset) of the thousand leaf synsets in the devkit's meta.mat."""
    from scipy.io import loadmat  # installed with scikit-learn

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        rows = [
            (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]))
            for row in synsets
            if int(row["num_children"]) == 0
        ]
    except Exception as error:  # scipy does not document its errors for a damaged file
        raise UserError(f"{label}: {META} is not a file of the devkit: {type(error).__name__}: {error}") from None
    return {number: synset for number, synset, _ in rows}, {synset: words for _, synset, words in rows}


def _build_val_lookup(
    label: str, names: Sequence[str], layout_files: Mapping[str, bytes], ids: Mapping[int, str]
) -> tuple[Callable[[str], str | None], list[str]]:
    """Return (a function from the file name of an image directly in val/ to its synset, the layout files used)."""
    if VAL_SOLUTION in layout_files:  # ImageId,PredictionString: ILSVRC2012_val_00048981,n03995372 85 1 499 272
        rows = list(csv.reader(_read_lines(layout_files, VAL_SOLUTION)))[1:]
        synsets = {row[0]: row[1].split()[0] for row in rows if len(row) > 1 and row[1].strip()}
        return lambda file: synsets.get(file.rpartition(".")[0]), [VAL_SOLUTION]
    if VAL_ANNOTATIONS in layout_files:  # val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62
        synsets = {
            row[0]: row[1]
            for line in _read_lines(layout_files, VAL_ANNOTATIONS)
            if len(row := line.split("\t")) > 1
        }
        return lambda file: synsets.get(file), [VAL_ANNOTATIONS]
    if GROUND_TRUTH in layout_files:
        return _build_number_lookup(label, _read_lines(layout_files, GROUND_TRUTH), ids), [GROUND_TRUTH]
    flat = [name for name in names if _parse_split_and_synset(name.split("/")[:-1]) == ("val", None)]
    if flat:
        raise UserError(
            f"{label}: {len(flat):,} validation pictures are in no synset folder, e.g. {flat[0]}; put "
            f"{VAL_SOLUTION} (or {GROUND_TRUTH} with {META}) beside train and val"
        )
    return lambda file: None, []


def _build_number_lookup(label: str, lines: Sequence[str], ids: Mapping[int, str]) -> Callable[[str], str | None]:
    """Return a function from the file name of an image in val/ to its synset, by the devkit's ground truth.

    Line N of it is the id of ILSVRC2012_val_0000000N.JPEG; the ids are not positions of sorted synsets.
    """
    if not ids:
        raise UserError(
            f"{label}: {GROUND_TRUTH} holds numbers; put the devkit's {META} (or {MAP_CLSLOC}) beside it, which "
            "gives their synsets"
        )
    try:
        synsets = [ids[int(line)] for line in lines]
    except (ValueError, KeyError) as error:
        raise UserError(f"{label}: {GROUND_TRUTH}: no synset has the id {error}") from None

    def find_val_synset(file: str) -> str | None:
        number = re.search(r"(\d+)\.\w+$", file)
        position = int(number[1]) if number else 0
        return synsets[position - 1] if 1 <= position <= len(synsets) else None

    return find_val_synset


def _read_lines(layout_files: Mapping[str, bytes], name: str) -> list[str]:
    return [line for line in layout_files[name].decode("utf-8", errors="replace").splitlines() if line.strip()]


def _parse_pair(line: str, separator: str) -> tuple[str, str]:
    synset, _, name = line.partition(separator)
    return synset.strip(), name.strip()
