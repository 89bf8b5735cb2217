"""The layout of the German Traffic Sign Recognition Benchmark (GTSRB), as its archives unpack.

`Final_Training/Images/CLASS/TRACK_FRAME.ppm`, with a table `GT-CLASS.csv` in each folder that adds nothing to the
class; `Final_Test/Images/NUMBER.ppm`, with the classes in the table `GT-final_test.csv`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence

from imageset.sources.base import PathLabel
from imageset.sources.layouts.layout import Layout

TEST_LABELS = "GT-final_test.csv"  # Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId
TEST_FOLDERS = ("Final_Test/Images/", "GTSRB/Final_Test/Images/", "GTSRB/")
_TRAINING = re.compile(r"((?:[^/]+/)*(?:Final_)?Training(?:/Images)?)/(\d{5})/\d{5}_\d{5}\.\w+")
_TEST = re.compile(r"(?:[^/]+/)*(?:Final|Online)[-_]Test(?:/Images)?/(\d{5}\.\w+)")


def is_gtsrb(names: Sequence[str]) -> bool:
    """Return whether all images lie as those of the benchmark do."""
    found = [bool(_TRAINING.fullmatch(name)) for name in names]
    return any(found) and all(
        is_training or _TEST.fullmatch(name) for is_training, name in zip(found, names, strict=True)
    )


def build_gtsrb_layout(names: Sequence[str], layout_files: Mapping[str, bytes]) -> Layout:
    """Return the layout of the benchmark; test images without a table of their classes are passed over."""
    root = next(match[1] for match in map(_TRAINING.fullmatch, names) if match)
    labels = _read_test_labels(layout_files.get(TEST_LABELS, b""))

    def parse_path(name: str) -> PathLabel | None:
        if match := _TRAINING.fullmatch(name):
            return PathLabel(match[2], "train" if labels else None)
        match = _TEST.fullmatch(name)
        label = labels.get(match[1]) if match else None
        return None if label is None else PathLabel(label, "test")

    def find_class_depth(folder: str) -> int:
        return root.count("/") + 2 if f"{root}/".startswith(f"{folder}/") else 0

    test = f", test pictures with {TEST_LABELS}" if labels else ""
    return Layout(
        parse_path,
        f"GTSRB's layout: the classes are the folders in {root}, TRACK_FRAME names the pictures{test}",
        lambda name: f"test pictures without {TEST_LABELS}",
        find_class_depth,
    )


def _read_test_labels(data: bytes) -> dict[str, str]:
    """Return the class folder's name by the file name of a test image."""
    lines = data.decode("utf-8", errors="replace").splitlines()
    rows = csv.DictReader(lines, delimiter=";")
    return {
        row["Filename"]: f"{int(row['ClassId']):05d}"
        for row in rows
        if row.get("Filename") and (row.get("ClassId") or "").isdigit()
    }
