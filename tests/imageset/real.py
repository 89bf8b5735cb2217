"""Real pictures of ../shared/datasets, a few at a time; tests are skipped where they are not."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

DATASETS = Path(__file__).resolve().parents[3] / "shared" / "datasets"


def archive(name: str) -> Path:
    """The path of an archive of real pictures."""
    if not (DATASETS / name).is_file():
        pytest.skip(f"../shared/datasets/{name} is not here")
    return DATASETS / name


def first_of_each_folder(name: str, num_each: int, num_folders: int) -> dict[str, bytes]:
    """{path in the archive: bytes} of the first files of its first folders."""
    found: dict[str, bytes] = {}
    counts: Counter[str] = Counter()
    with tarfile.open(archive(name)) as source:
        for member in source:
            folder = str(PurePosixPath(member.name).parent)
            is_picture = PurePosixPath(member.name).suffix.lower() in (".jpg", ".jpeg", ".ppm")
            if not (member.isfile() and is_picture) or counts.get(folder) == num_each:
                continue
            if folder not in counts and len(counts) == num_folders:
                break
            counts[folder] += 1
            found[member.name] = source.extractfile(member).read()  # type: ignore[union-attr]
            if len(counts) == num_folders and set(counts.values()) == {num_each}:
                break
    return found


def photographs(num: int) -> dict[str, bytes]:
    """{synset: bytes of a JPEG} of ImageNet's sample photographs, one a class."""
    found = first_of_each_folder("photos.tar.gz", num, 1)
    return {PurePosixPath(name).name[:9]: data for name, data in found.items()}
