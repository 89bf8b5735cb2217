"""Names of splits: in the names of folders, of files, and in tables."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

SPLIT_BY_FOLDER = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "eval": "val",
    "evaluation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "holdout": "test",
}

# Words that say nothing about a split: training_set, test_images.
_NEUTRAL_WORDS = frozenset(
    [
        *("data", "dataset", "datasets", "set", "sets", "split", "splits", "subset", "folder", "dir"),
        *("image", "images", "img", "imgs", "picture", "pictures", "pics", "photo", "photos"),
        *("file", "files", "sample", "samples"),
    ]
)
_JOINED = re.compile(rf"^({'|'.join(SPLIT_BY_FOLDER)})({'|'.join(sorted(_NEUTRAL_WORDS))})$")  # "trainset"


class SplitName(NamedTuple):
    """A folder's name that holds the word of one split.

    Attributes:
        split: train, val or test.
        affix: the words beside it that are neither numbers nor neutral: ("seg",) in "seg_train".
    """

    split: str
    affix: tuple[str, ...]


def parse_split_name(name: str) -> SplitName | None:
    """Parse a folder's name; None if it holds the word of no split, or of several.

    "train", "train1", "TrainingSet" and "test_images" have no affix; "seg_train" has the affix ("seg",).
    """
    words: list[str] = []
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # "TrainingSet"
    for word in re.split(r"[\W_]+|(?<=\D)(?=\d)|(?<=\d)(?=\D)", re.sub(r"(?i)hold[-_ ]out", "holdout", spaced)):
        joined = _JOINED.match(word.lower())
        words += joined.groups() if joined else [word.lower()]
    splits = {SPLIT_BY_FOLDER[word] for word in words if word in SPLIT_BY_FOLDER}
    if len(splits) != 1:
        return None
    known = SPLIT_BY_FOLDER.keys() | _NEUTRAL_WORDS
    affix = tuple(word for word in words if word and word not in known and not word.isdigit())
    return SplitName(splits.pop(), affix)


def find_split_names(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each folder that is named like one, among folders that are side by side.

    A name with an affix counts only if another split has the same affix: seg_train beside seg_test, but neither
    bullet_train nor test_tube.
    """
    parsed = {name: split for name in names if (split := parse_split_name(name))}
    splits_by_affix = defaultdict(set)
    for split_name in parsed.values():
        splits_by_affix[split_name.affix].add(split_name.split)
    return {name: split for name, (split, affix) in parsed.items() if not affix or len(splits_by_affix[affix]) > 1}


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


def group_by_split(names: Iterable[str]) -> list[list[str]]:
    """Group paths that differ by the words of splits only: train/x.csv and test/x.csv."""
    groups: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in names:
        key: list[object] = []
        for part in name.split("/"):
            stem, dot, ending = part.rpartition(".")
            parsed = parse_split_name(stem if dot else part)
            key.append((parsed.affix, ending if dot else "") if parsed else part)
        groups[tuple(key)].append(name)
    return list(groups.values())
