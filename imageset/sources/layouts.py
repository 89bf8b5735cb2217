"""What the folders around pictures say: classes, splits, and the ways of ImageNet and of Tiny ImageNet.

A layout is understood from the names alone (POSIX paths relative to the source) and from a few small text files,
so a folder, an archive and a listing of a bucket are understood alike.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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

# The text files that ImageNet's and Tiny ImageNet's layouts are understood by, and the folders they may lie in.
MAPPING, VAL_SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
GROUND_TRUTH, META, MAP_CLSLOC = "ILSVRC2012_validation_ground_truth.txt", "meta.mat", "map_clsloc.txt"
WORDS, VAL_ANNOTATIONS = "words.txt", "val_annotations.txt"
LAYOUT_FILES = (MAPPING, VAL_SOLUTION, GROUND_TRUTH, META, MAP_CLSLOC, WORDS, VAL_ANNOTATIONS)
LAYOUT_FILE_FOLDERS = ("", "ILSVRC2012_devkit_t12/data/", "devkit/data/", "data/", "val/")
MAX_LAYOUT_FILE_BYTES = 64 << 20

_SYNSET = re.compile(r"^n\d{8}$")


class Layout(NamedTuple):
    """`place(name)` says where a picture belongs; None: it is passed over, under `unplaced`. `note` is echoed."""

    parse_path: Callable[[str], PathLabel | None]
    note: str = ""
    skip_cause: str = "unlabelled pictures of a split"


def detect_layout(label: str, names: Sequence[str], layout_files: Mapping[str, bytes], *, skip_common_folders: bool) -> Layout:
    """The layout of pictures of these names; `notes` are the contents of files named in NOTES.

    `skip_common` leaves out folders that are around all pictures, such as an archive's own top folder.

    Raises:
        UserError: ImageNet's validation pictures without what says their labels.
    """
    if _is_imagenet(names, layout_files):
        return _build_imagenet_layout(label, names, layout_files)
    return _build_folder_layout(names, skip_common_folders)


def guess_split_from_name(name: str) -> str | None:
    """The split that a file's name tells of: "train-00000-of-00002" -> "train", "imagenet_val.001" -> "val"."""
    found = {SPLIT_BY_FOLDER.get(part) for part in re.split(r"[-_. ]+", name.lower())} - {None}
    return found.pop() if len(found) == 1 else None


def guess_split_from_path(name: str) -> str | None:
    """The split that a path tells of, by its last part first: "train/shard-000.tar" -> "train"."""
    for part in reversed(name.split("/")):
        if split := guess_split_from_name(part):
            return split
    return None


# ---- one folder a class ----------------------------------------------------------------------------------------


def _build_folder_layout(names: Sequence[str], skip_common: bool) -> Layout:
    folders = {name.rpartition("/")[0] for name in names}
    parts = [tuple(folder.split("/")) if folder else () for folder in folders]
    skip = _num_common_folders(parts) if skip_common else 0
    tops = {one[skip].lower() for one in parts if len(one) > skip}
    deep = {one[skip].lower() for one in parts if len(one) > skip + 1}
    is_split = bool(tops) and tops <= SPLIT_BY_FOLDER.keys() and "train" in {SPLIT_BY_FOLDER[one] for one in deep}

    def place(name: str) -> PathLabel | None:
        inside = name.split("/")[skip:-1]
        if not is_split:
            return PathLabel(inside[0] if inside else None, None)
        if len(inside) < 2:
            return None
        return PathLabel(inside[1], SPLIT_BY_FOLDER[inside[0].lower()])

    return Layout(place)


def _num_common_folders(folders: Sequence[tuple[str, ...]]) -> int:
    """How many folders are around all pictures and hold no picture themselves."""
    num = 0
    while folders and all(len(one) > num + 1 for one in folders) and len({one[num] for one in folders}) == 1:
        num += 1
    return num


# ---- ImageNet --------------------------------------------------------------------------------------------------


def _is_imagenet(names: Sequence[str], notes: Mapping[str, bytes]) -> bool:
    """Synset folders, with a file that tells of them, or below train/ beside a flat val/."""
    folders = {name.rpartition("/")[0] for name in names}
    parts = [folder.split("/") for folder in folders]
    if not any(_SYNSET.match(part) for one in parts for part in one):
        return False
    in_train = any(split == "train" and synset for split, synset in map(_parse_split_and_synset, parts))
    flat_val = any(split == "val" and not synset for split, synset in map(_parse_split_and_synset, parts))
    return bool(notes) or (in_train and flat_val)


def _parse_split_and_synset(parts: Sequence[str]) -> tuple[str | None, str | None]:
    """Of the folders above a picture: ILSVRC/Data/CLS-LOC/train/n01440764 -> ("train", "n01440764")."""
    split = next((SPLIT_BY_FOLDER[part.lower()] for part in parts if part.lower() in SPLIT_BY_FOLDER), None)
    return split, next((part for part in parts if _SYNSET.match(part)), None)


def _build_imagenet_layout(shown: str, names: Sequence[str], notes: Mapping[str, bytes]) -> Layout:
    ids, words = _read_synsets(shown, notes)
    of_val, val_note = _build_val_lookup(shown, names, notes, ids)

    def place(name: str) -> PathLabel | None:
        *folders, file = name.split("/")
        split, synset = _parse_split_and_synset(folders)
        if synset is None and split == "val":
            synset = of_val(file)
        return None if synset is None else PathLabel(words.get(synset, synset), split)

    used = [note for note in (MAPPING, META, MAP_CLSLOC, WORDS) if note in notes][:1] + val_note
    return Layout(place, "ImageNet's layout" + (f", with {' and '.join(used)}" if used else ""))


def _read_synsets(shown: str, notes: Mapping[str, bytes]) -> tuple[dict[int, str], dict[str, str]]:
    """Return (synset of each ILSVRC2012 id, name of each synset); synsets of one name get theirs in brackets."""
    ids: dict[int, str] = {}
    words: dict[str, str] = {}
    if MAP_CLSLOC in notes:  # "n02119789 1 kit_fox"
        rows = [line.split() for line in _read_lines(notes, MAP_CLSLOC)]
        ids = {int(row[1]): row[0] for row in rows if len(row) > 2 and row[1].isdigit()}
        words = {row[0]: row[2].replace("_", " ") for row in rows if len(row) > 2}
    if META in notes:
        ids, words = _read_meta(shown, notes[META])
    if WORDS in notes:  # Tiny ImageNet: "n00001740<tab>entity"
        words = dict(_parse_pair(line, "\t") for line in _read_lines(notes, WORDS))
    if MAPPING in notes:  # "n01440764 tench, Tinca tinca"
        words = dict(_parse_pair(line, " ") for line in _read_lines(notes, MAPPING))
    num_called = Counter(words.values())
    return ids, {
        synset: f"{name} ({synset})" if num_called[name] > 1 else name for synset, name in words.items() if name
    }


def _read_meta(shown: str, data: bytes) -> tuple[dict[int, str], dict[str, str]]:
    """The devkit's meta.mat: (synset by id, words by synset) of the thousand that are leaves."""
    from scipy.io import loadmat  # scikit-learn brings it

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        rows = [
            (int(one["ILSVRC2012_ID"]), str(one["WNID"]), str(one["words"]))
            for one in synsets
            if int(one["num_children"]) == 0
        ]
    except Exception as error:  # scipy names no set of them for a damaged file
        raise UserError(f"{shown}: {META} is not the devkit's: {type(error).__name__}: {error}") from None
    return {number: synset for number, synset, _ in rows}, {synset: words for _, synset, words in rows}


def _build_val_lookup(
    shown: str, names: Sequence[str], notes: Mapping[str, bytes], ids: Mapping[int, str]
) -> tuple[Callable[[str], str | None], list[str]]:
    """Return (synset of a picture that lies flat in val/, by its file name; the file that says so, if any)."""
    if VAL_SOLUTION in notes:  # ImageId,PredictionString: ILSVRC2012_val_00048981,n03995372 85 1 499 272
        rows = list(csv.reader(_read_lines(notes, VAL_SOLUTION)))[1:]
        said = {row[0]: row[1].split()[0] for row in rows if len(row) > 1 and row[1].strip()}
        return lambda file: said.get(file.rpartition(".")[0]), [VAL_SOLUTION]
    if VAL_ANNOTATIONS in notes:  # val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62
        said = {row[0]: row[1] for line in _read_lines(notes, VAL_ANNOTATIONS) if len(row := line.split("\t")) > 1}
        return lambda file: said.get(file), [VAL_ANNOTATIONS]
    if GROUND_TRUTH in notes:
        return _build_number_lookup(shown, _read_lines(notes, GROUND_TRUTH), ids), [GROUND_TRUTH]
    flat = [
        name
        for name in names
        if (found := _parse_split_and_synset(name.split("/")[:-1]))[0] == "val" and found[1] is None
    ]
    if flat:
        raise UserError(
            f"{shown}: {len(flat):,} validation pictures lie in no synset folder, e.g. {flat[0]}; put "
            f"{VAL_SOLUTION} (or {GROUND_TRUTH} with {META}) beside train and val"
        )
    return lambda file: None, []


def _build_number_lookup(shown: str, lines: Sequence[str], ids: Mapping[int, str]) -> Callable[[str], str | None]:
    """The devkit's ground truth: line N is the id of ILSVRC2012_val_0000000N.JPEG; ids are not sorted synsets."""
    if not ids:
        raise UserError(
            f"{shown}: {GROUND_TRUTH} holds numbers; put the devkit's {META} (or {MAP_CLSLOC}) beside it, which "
            "say what they mean"
        )
    try:
        synsets = [ids[int(line)] for line in lines]
    except (ValueError, KeyError) as error:
        raise UserError(f"{shown}: {GROUND_TRUTH}: no synset has the id {error}") from None

    def of_val(file: str) -> str | None:
        number = re.search(r"(\d+)\.\w+$", file)
        position = int(number[1]) if number else 0
        return synsets[position - 1] if 1 <= position <= len(synsets) else None

    return of_val


def _read_lines(notes: Mapping[str, bytes], note: str) -> list[str]:
    return [line for line in notes[note].decode("utf-8", errors="replace").splitlines() if line.strip()]


def _parse_pair(line: str, separator: str) -> tuple[str, str]:
    synset, _, name = line.partition(separator)
    return synset.strip(), name.strip()
