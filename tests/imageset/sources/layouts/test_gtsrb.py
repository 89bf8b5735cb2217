from __future__ import annotations

from pathlib import Path

import pytest

from imageset.sources.factory import open_source
from tests.helpers.images import encode_noise

COLUMNS = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def make_benchmark(root: Path, training: str, *, num_test: int = 0) -> Path:
    for label in (0, 7):
        folder = root / training / f"{label:05d}"
        folder.mkdir(parents=True)
        names = [f"{track:05d}_{frame:05d}.ppm" for track in range(3) for frame in range(2)]
        for number, name in enumerate(names):
            (folder / name).write_bytes(encode_noise(100 * label + number, kind="PPM"))
        lines = [COLUMNS, *(f"{name};20;20;1;1;18;18;{label}" for name in names)]
        (folder / f"GT-{label:05d}.csv").write_text("\r\n".join(lines))
    (root / "Readme-Images.txt").write_text("GTSRB")
    for number in range(num_test):
        (root / "Final_Test" / "Images").mkdir(parents=True, exist_ok=True)
        (root / "Final_Test" / "Images" / f"{number:05d}.ppm").write_bytes(encode_noise(900 + number, kind="PPM"))
    return root


@pytest.mark.parametrize("training", ["Final_Training/Images", "GTSRB/Final_Training/Images", "GTSRB/Training"])
def test_the_benchmark_is_understood_as_it_unpacks(tmp_path: Path, training: str) -> None:
    source = open_source(str(make_benchmark(tmp_path / "gtsrb", training)))
    assert dict(source.classes) == {"00000": 6, "00007": 6} and source.problem is None
    assert f"GTSRB's layout: the classes are the folders in {training}" in source.describe()
    assert {image.label for image in source} == {"00000", "00007"}
    assert {image.split for image in source} == {None}


def test_test_pictures_are_passed_over_without_their_table_and_are_the_test_split_with_it(tmp_path: Path) -> None:
    root = make_benchmark(tmp_path / "gtsrb", "Final_Training/Images", num_test=3)
    source = open_source(str(root))
    assert len(source) == 12 and source.passed_over["test pictures without GT-final_test.csv"] == 3
    rows = [f"{number:05d}.ppm;20;20;1;1;18;18;{7 * (number % 2)}" for number in range(3)]
    (root / "Final_Test" / "Images" / "GT-final_test.csv").write_text("\n".join([COLUMNS, *rows]))
    source = open_source(str(root))
    assert dict(source.splits) == {"train": 12, "test": 3}
    labels = {image.uri: image.label for image in source if image.split == "test"}
    assert labels == {f"Final_Test/Images/{n:05d}.ppm": ("00000", "00007")[n % 2] for n in range(3)}


def test_other_folders_beside_it_are_no_benchmark(tmp_path: Path) -> None:
    root = make_benchmark(tmp_path / "gtsrb", "Final_Training/Images")
    (root / "mine").mkdir()
    (root / "mine" / "a.png").write_bytes(encode_noise(5))
    assert "GTSRB" not in open_source(str(root), require_classes=False).describe()
