"""ImageNet's and Tiny ImageNet's folders, made of parts of photographs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from imageset.exceptions import UserError
from imageset.raw.ingestion import ingest_source
from imageset.sources.factory import open_source
from imageset.sources.layouts.detection import detect_layout
from imageset.sources.layouts.split_names import guess_split_from_name
from tests.helpers.datasets import pack_folder
from tests.helpers.images import encode_noise, make_image_folder
from tests.helpers.photographs import crop_photographs

SYNSETS = ("n01440764", "n01498041", "n01532829", "n02012849", "n03126707")
NAMES = ("tench, Tinca tinca", "stingray", "house finch, linnet, Carpodacus mexicanus", "crane", "crane")


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    return dict(zip(SYNSETS, crop_photographs(SYNSETS, 1).values(), strict=True))


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def plain(root: Path, photos: dict[str, bytes], inside: str = "") -> Path:
    """train/SYNSET/*.JPEG and a flat val/, as the three archives of ILSVRC2012 unpack."""
    for number, (synset, data) in enumerate(photos.items(), 1):
        write(root / inside / "train" / synset / f"{synset}_1.JPEG", data)
        write(root / inside / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", data + b"\0")
    return root


def kaggle(root: Path, photos: dict[str, bytes]) -> Path:
    """As `kaggle competitions download imagenet-object-localization-challenge` unpacks."""
    plain(root, photos, "ILSVRC/Data/CLS-LOC")
    write(root / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", encode_noise(1))
    write(root / "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml", b"<annotation/>")
    write(root / "LOC_synset_mapping.txt", mapping(photos))
    rows = [f"ILSVRC2012_val_{n:08d},{synset} 85 1 499 272 \n" for n, synset in enumerate(photos, 1)]
    write(root / "LOC_val_solution.csv", ("ImageId,PredictionString\n" + "".join(rows[::-1])).encode())
    return root


def mapping(photos: dict[str, bytes]) -> bytes:
    return "".join(f"{synset} {name}\n" for synset, name in zip(photos, NAMES, strict=True)).encode()


def expected(photos: dict[str, bytes]) -> Counter[str]:
    crane, other = list(photos)[3:]
    return Counter(dict.fromkeys((*NAMES[:3], f"crane ({crane})", f"crane ({other})"), 2))


def test_kaggles_imagenet_is_named_by_its_mapping_and_its_validation_by_the_solution(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    source = open_source(kaggle(tmp_path / "imagenet", photos))
    assert source.classes == expected(photos)
    assert source.splits == {"train": 5, "val": 5}
    by_bytes = {one.read(): one.label for one in source if one.split == "train"}
    assert {one.read()[:-1]: one.label for one in source if one.split == "val"} == by_bytes
    assert "10 pictures in 5 classes (crane (n0" in source.describe()
    assert "with LOC_synset_mapping.txt and LOC_val_solution.csv" in source.describe()
    assert "splits train 5, val 5" in source.describe() and "1 unlabelled picture of a split" in source.describe()
    assert ingest_source(source, tmp_path / "raw").num_new == 10


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_the_archive_of_kaggles_imagenet_is_understood_as_its_folder(
    tmp_path: Path, photos: dict[str, bytes], ending: str
) -> None:
    source = open_source(
        pack_folder(kaggle(tmp_path / "set", photos), tmp_path / f"imagenet.{ending}", "some/where/")
    )
    assert source.classes == expected(photos) and source.splits == {"train": 5, "val": 5}


def devkit(root: Path, photos: dict[str, bytes], with_what: str) -> None:
    """The ground truth of the devkit: ids whose order is not that of the synsets' names."""
    ids = {synset: number for number, synset in enumerate(reversed(photos), 1)}
    write(root / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{ids[one]}\n" for one in photos).encode())
    if with_what == "map_clsloc.txt":
        rows = [f"{one} {ids[one]} {name.replace(' ', '_')}\n" for one, name in zip(photos, NAMES, strict=True)]
        write(root / with_what, "".join(rows).encode())
    if with_what == "meta.mat":
        from scipy.io import savemat

        kinds = [("ILSVRC2012_ID", "u2"), ("WNID", "O"), ("words", "O"), ("num_children", "u1")]
        rows = [(ids[one], one, name, 0) for one, name in zip(photos, NAMES, strict=True)]
        rows.append((1001, "n00001740", "entity", 2))
        savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})


@pytest.mark.parametrize("with_what", ["meta.mat", "map_clsloc.txt"])
def test_the_devkits_numbers_are_looked_up_where_the_devkit_says(
    tmp_path: Path, photos: dict[str, bytes], with_what: str
) -> None:
    devkit(plain(tmp_path / "set", photos), photos, with_what)
    source = open_source(tmp_path / "set")
    assert source.classes == expected(photos)
    assert f"with {with_what} and ILSVRC2012_validation_ground_truth.txt" in source.describe()


def test_validation_pictures_that_nothing_labels_are_not_taken_for_a_class(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    root = plain(tmp_path / "set", photos)
    with pytest.raises(UserError, match=r"5 validation pictures are in no synset folder, e\.g\. val/ILSVRC"):
        open_source(root)
    devkit(root, photos, "")
    with pytest.raises(UserError, match=r"holds numbers; put the devkit's meta\.mat"):
        open_source(root)
    (root / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file, no more")
    with pytest.raises(UserError, match=r"meta\.mat is not a file of the devkit"):
        open_source(root)


def test_tiny_imagenet_is_named_by_its_words(tmp_path: Path, photos: dict[str, bytes]) -> None:
    root = tmp_path / "tiny-imagenet-200"
    rows = []
    for number, (synset, data) in enumerate(photos.items()):
        write(root / "train" / synset / "images" / f"{synset}_0.JPEG", data)
        write(root / "val" / "images" / f"val_{number}.JPEG", data + b"\0")
        rows.append(f"val_{number}.JPEG\t{synset}\t0\t32\t44\t62\n")
    write(root / "test" / "images" / "test_0.JPEG", encode_noise(1))
    write(root / "val" / "val_annotations.txt", "".join(rows).encode())
    write(root / "words.txt", mapping(photos).replace(b" ", b"\t", 1).replace(b"\nn", b"\nn"))
    words = "".join(f"{synset}\t{name}\n" for synset, name in zip(photos, NAMES, strict=True))
    write(root / "words.txt", words.encode())
    source = open_source(root)
    assert source.classes == expected(photos) and source.splits == {"train": 5, "val": 5}


def test_synset_folders_that_nothing_names_are_classes_by_their_synset(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    for synset, data in photos.items():
        write(tmp_path / "set" / synset / "1.JPEG", data)
    assert set(open_source(tmp_path / "set").classes) == set(photos)
    write(tmp_path / "set" / "LOC_synset_mapping.txt", mapping(photos))
    assert "stingray" in open_source(tmp_path / "set").classes


def test_a_flat_test_folder_is_passed_over_and_said(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "set" / "train", num_each=2)
    write(tmp_path / "set" / "test" / "1.png", encode_noise(7))
    source = open_source(tmp_path / "set")
    assert source.splits == {"train": 4} and "passed over: 1 unlabelled picture of a split" in source.describe()


def test_a_folder_of_pictures_beside_their_table_points_to_the_table(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\n")
    write(tmp_path / "1.png", encode_noise(1))
    with pytest.raises(UserError, match=r"in no class folder; .*; labels\.csv is not used: it holds no rows$"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002", "train"),
        ("imagenet1k-validation-03", "val"),
        ("shard-000.test", "test"),
        ("latest-trains", None),
        ("train-or-test", None),
    ],
)
def test_a_split_is_read_from_a_whole_word_of_a_name(name: str, split: str | None) -> None:
    assert guess_split_from_name(name) == split


def test_a_million_names_are_understood_by_their_folders() -> None:
    names = [f"train/{number % 100:03d}/{number}.jpg" for number in range(100_000)]
    layout = detect_layout("set", names, {}, skip_common_folders=False)
    assert layout.parse_path(names[7]) == ("007", "train")
