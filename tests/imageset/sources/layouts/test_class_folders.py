"""Trees of folders as people have them: understood, or a stop that says which option decides."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from imageset.exceptions import UserError
from imageset.sources.base import Source
from imageset.sources.factory import open_source
from tests.helpers.datasets import pack_folder


def expand(pattern: str) -> Iterable[str]:
    """ "{a,b}/c" -> "a/c", "b/c"."""
    from imageset.sources.sharded import expand_braces

    return expand_braces(pattern)


def plant(root: Path, *patterns: str, num: int = 2) -> Path:
    """Two files named like pictures in each folder; an entry with an ending is a file of its own."""
    numbers = itertools.count()
    for folder in (folder for pattern in patterns for folder in expand(pattern)):
        names = [folder] if "." in folder else [f"{folder}/{next(numbers):04d}.png" for _ in range(num)]
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x")
    return root


def open_as(kind: str, root: Path, query: str = "", **options: Any) -> Source:
    """The tree as a folder, as an archive, or as a folder of a bucket."""
    mark = f"?{query}" if query else ""
    if kind == "folder":
        return open_source(f"{root}{mark}", **options)
    if kind == "archive":
        return open_source(f"{pack_folder(root, root.parent / 'set.zip')}{mark}", **options)
    import fsspec

    bucket = fsspec.filesystem("memory")
    bucket.store.clear()
    bucket.put(f"{root}/", "/set/", recursive=True)
    return open_source(f"memory://set{mark}", **options)


KINDS = ("folder", "archive", "bucket")
TWO = {"cat": 4, "dog": 4}

UNDERSTOOD = [
    # patterns, classes, splits, words of the description
    (["{train,eval}/{cat,dog}"], TWO, {"train": 4, "val": 4}, "eval is val"),
    (["{Training,Holdout}/{cat,dog}"], TWO, {"train": 4, "test": 4}, "Holdout is test, Training is train"),
    (["{train1,test1}/{cat,dog}"], TWO, {"train": 4, "test": 4}, "test1 is test"),
    (["{training_set,test_set}/{cat,dog}"], TWO, {"train": 4, "test": 4}, "test_set is test"),
    (["{TrainImages,ValidImages}/{cat,dog}"], TWO, {"train": 4, "val": 4}, "ValidImages is val"),
    (["{trainset,devset}/{cat,dog}"], TWO, {"train": 4, "val": 4}, "devset is val"),
    (["{train2017,val2017}/{cat,dog}"], TWO, {"train": 4, "val": 4}, "val2017 is val"),
    (["{train,hold-out}/{cat,dog}"], TWO, {"train": 4, "test": 4}, "hold-out is test"),
    (
        ["seg_train/seg_train/{cat,dog}", "seg_test/seg_test/{cat,dog}", "seg_pred/seg_pred"],
        TWO,
        {"train": 4, "test": 4},
        "passed over: 2 pictures in seg_pred",
    ),
    (["{train,test}/{cat,dog}", "unlabeled"], TWO, {"train": 4, "test": 4}, "2 pictures in unlabeled"),
    (["{train,test}/{cat,dog}", "docs/figures", "x.png"], TWO, {"train": 4, "test": 4}, "2 pictures in docs"),
    (
        ["{train,test}/{cat,dog}", *"abcdefg"],
        TWO,
        {"train": 4, "test": 4},
        "14 pictures in a, b, c, d, e and 2 more",
    ),
    (["train/{cat,dog}", "test"], {"cat": 2, "dog": 2}, {"train": 4}, "2 unlabelled pictures of a split"),
    (["{cat,dog}/{train,test}"], TWO, {"train": 4, "test": 4}, "splits below the classes"),
    (["cat/{train,valid}", "dog/train"], {"cat": 4, "dog": 2}, {"train": 4, "val": 2}, "valid is val"),
    (["{bullet_train,test_tube,car}"], {"bullet_train": 2, "test_tube": 2, "car": 2}, {}, ""),
    (
        ["{cats/siamese,cats/persian,dogs/pug}"],
        {"cats": 4, "dogs": 2},
        {},
        "2 levels of folders, the first is the",
    ),
    (["{trainer,protest,evaluate}"], {"trainer": 2, "protest": 2, "evaluate": 2}, {}, ""),
    (["vehicles/{train,bus}", "fish/{cod,eel}"], {"vehicles": 4, "fish": 4}, {}, "2 levels of folders"),
    (["{cat,dog}/images"], {"cat": 2, "dog": 2}, {}, "2 levels of folders"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("patterns", "classes", "splits", "words"), UNDERSTOOD)
def test_a_clear_tree_is_understood_and_described(
    tmp_path: Path, kind: str, patterns: list[str], classes: dict[str, int], splits: dict[str, int], words: str
) -> None:
    source = open_as(kind, plant(tmp_path / "set", *patterns))
    assert (source.classes, source.splits) == (classes, splits)
    assert Counter(image.label for image in source) == classes and words in source.describe()


UNCLEAR = [
    # patterns, words of the message, classes and splits with the first option that it gives
    (["{train,test}"], "the pictures of test.*and train.*are in no class folder", {"train": 2, "test": 2}, {}),
    (["{train,test1}", "unlabeled"], "the pictures of test1.*and train.*are in no class folder",
     {"train": 2, "test1": 2, "unlabeled": 2}, {}),
    (["{test,cat,dog}"], "test .2 pictures. is named like a split, but", {"test": 2, "cat": 2, "dog": 2}, {}),
    (["{valid,invalid}"], "valid .2 pictures. is named like a split", {"valid": 2, "invalid": 2}, {}),
    (["train/{steam,diesel}", "{car,bus}"], "train is named like a split, beside car and bus|bus and car",
     {"steam": 2, "diesel": 2}, {"train": 4}),
    (["{val,test}/{cat,dog}"], "test and val are named like a split, but there is no folder train", None, None),
    (["{trainval,test}/{cat,dog}"], "if trainval is for training", TWO, {"train": 4, "test": 4}),
    (["train", "test/{cat,dog}"], "the pictures of train are in no class folder", None, None),
    (["{train,test}/{cat,dog,test}"], "the folder t.*/test is named like a split",
     {"cat": 4, "dog": 4, "test": 4}, {"train": 6, "test": 6}),
    (["{train,test,extra}/{cat,dog}"], "extra, beside test and train, holds folders like theirs",
     TWO, {"train": 4, "test": 4}),
    (["{train,test}/{cat,dog}", "cat"], "cat is a class below test and train and a folder beside",
     TWO, {"train": 4, "test": 4}),
    (["train/{a,b}", "test/{c,d}"], "named like splits but share no class folder",
     {"a": 2, "b": 2, "c": 2, "d": 2}, {"train": 4, "test": 4}),
    (["{fold1,fold2,fold3}/{cat,dog}"], "fold1, fold2 and fold3 look like parts", {"cat": 6, "dog": 6}, {}),
    (["cat/{train,test}", "dog"], "test and train are below cat, but dog holds other", None, None),
    (["{cat,dog}/{dev,test}"], "dev and test are below cat and dog, but no folder train",
     {"cat": 4, "dog": 4}, {}),
    (["{a,b}/{train,test}/{cat,dog}"], "with folders below them .cat and dog.; if a and b",
     {"a": 8, "b": 8}, {"train": 8, "test": 8}),
    (["{xtrain,xtest}/{cat,dog}"], "xtest and xtrain look like parts of one set", TWO, {}),
    (["{Training,PublicTest,PrivateTest}/{cat,dog}"], "PrivateTest is for test, PublicTest is for test",
     {"cat": 2, "dog": 2}, {"train": 4}),
    (["{training,prova}/{cat,dog}"], "prova, beside training, holds folders like theirs.* if prova is for test",
     {"cat": 2, "dog": 2}, {"train": 4}),
    (["seg_train/{cat,dog}", "seg_pred"], "seg_train may be the split train",
     {"cat": 2, "dog": 2}, {"train": 4}),
    (["{cat,dog,old/cat,old/dog}"], "old holds folders that are also beside it .cat and dog",
     {"cat": 2, "dog": 2}, {}),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("patterns", "message", "classes", "splits"), UNCLEAR)
def test_an_unclear_tree_stops_with_an_option_that_works(
    tmp_path: Path,
    kind: str,
    patterns: list[str],
    message: str,
    classes: dict[str, int] | None,
    splits: dict[str, int] | None,
) -> None:
    root = plant(tmp_path / "set", *patterns)
    with pytest.raises(UserError, match=message) as caught:
        open_as(kind, root)
    assert open_as(kind, root, require_classes=False).problem == str(caught.value)
    for spec in [word.strip("',;") for word in str(caught.value).split() if "?" in word]:
        assert open_source(shlex.split(spec)[0]).problem is None
    if classes is not None:
        first = next(word.strip("',;") for word in str(caught.value).split() if "?" in word)
        source = open_source(first)
        assert (source.classes, source.splits) == (classes, splits)


def test_a_hint_holds_within_the_common_folder_of_an_archive(tmp_path: Path) -> None:
    root = plant(tmp_path / "set", "top/{train,test}/{cat,dog}", "top/cat")
    with pytest.raises(UserError, match="cat is a class below test and train") as caught:
        open_as("archive", root)
    spec = shlex.split(str(caught.value).partition("to leave it out: ")[2])[0]
    assert spec.endswith("?ignore=/top/cat") and open_source(spec).classes == TWO


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", ["set", "train"])
def test_a_copy_beside_its_tree_is_passed_over_by_the_names_of_its_files(
    tmp_path: Path, kind: str, inner: str
) -> None:
    root = tmp_path / "set"
    for top in ("", "set/") if inner == "set" else ("", "train/"):
        for split in ("train", "test") if inner == "set" else ("train",):
            for label in ("cat", "dog"):
                plant(root, *(f"{top}{split}/{label}/{split}{number}.png" for number in range(3)))
    source = open_as(kind, root)
    assert source.classes == ({"cat": 6, "dog": 6} if inner == "set" else {"cat": 3, "dog": 3})
    assert "(a copy)" in source.describe()
    plant(root, f"{inner}/train/cat/more.png" if inner == "set" else "train/train/cat/more.png")
    with pytest.raises(UserError, match="ignore="):
        open_as(kind, root)
    plant(root, "train/cat/more.png", "train/cat/another.png")  # now the copy is the smaller one
    with pytest.raises(UserError, match="ignore="):
        open_as(kind, root)


@pytest.mark.parametrize("kind", KINDS)
def test_options_choose_folders_of_splits_ignored_folders_and_the_level(tmp_path: Path, kind: str) -> None:
    root = plant(tmp_path / "set", "{one,two}/{cats/siamese,cats/persian,dogs/pug}", "a & b, c/x")
    query = "split_folders=one:train,two:dev&level=2"
    source = open_as(kind, root, query)
    assert (source.classes, source.splits) == ({"siamese": 4, "persian": 4, "pug": 4}, {"train": 6, "val": 6})
    assert "2 pictures in a & b, c" in source.describe() and "the second is the class" in source.describe()
    source = open_as(kind, root, "ignore=a %26 b%2C c,persian,one/dogs&level=2")
    assert (source.classes, source.splits) == ({"cats": 4, "dogs": 2}, {})
    assert "4 pictures in persian (ignored)" in source.describe()
    source = open_as(kind, plant(tmp_path / "other" / "set", "{cats,dogs}/{old,young}"), "level=2")
    assert (
        source.classes == {"old": 4, "young": 4}
        and "of one name are one class: old and young" in source.describe()
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("ignored=x", "unknown option 'ignored' after the question mark; did you mean 'ignore'"),
        ("ignore=tarin", "no pictures are in a folder of this name; did you mean 'train'"),
        ("level=0", "level is '0'"),
        ("level=", "the option level has no value; give level=2"),
        ("split_folders=cat", "does not say which split 'cat' is; write cat:train"),
        ("split_folders=cat:all", "'all' is no split"),
        ("split_folders=trian:train", "names trian, which holds no pictures; did you mean 'train'"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, kind: str, query: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_as(kind, plant(tmp_path / "set", "{train,test}/{cat,dog}"), query)
