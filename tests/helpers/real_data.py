"""Real data that is not part of the repository: sets of pictures, and odd and hostile files.

CONVOY_TEST_DATA names the folder of the sets (default: ../shared/datasets); the hostile files lie beside it, in
`hostile`. A test whose file is missing is skipped.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from tests.helpers.project import ROOT

DATASETS = Path(os.environ.get("CONVOY_TEST_DATA", ROOT.parent / "shared" / "datasets")).resolve()
HOSTILE = DATASETS.parent / "hostile"
MISSING_DATA = "real data is missing"  # in the reason of every test that is skipped for want of it


def find_real_file(name: str) -> Path:
    """The path of a file of the sets; skips the test where it is missing."""
    return _find_or_skip(DATASETS / name)


def extract_archive(archive: tarfile.TarFile, folder: Path, members: list[tarfile.TarInfo] | None = None) -> None:
    """Extract an archive; Python 3.11.4 brought the filter that keeps its files within the folder."""
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    archive.extractall(folder, members, **safely)


def find_hostile_file(name: str) -> Path:
    """The path of a file of the hostile corpus; skips the test where it is missing."""
    return _find_or_skip(HOSTILE / name)


def _find_or_skip(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"{MISSING_DATA}: {path}")
    return path


needs_hostile = pytest.mark.skipif(
    not all((HOSTILE / name).is_file() for name in ("corpus.tar.gz", "MANIFEST.csv")),
    reason=f"{MISSING_DATA}: {HOSTILE}, or a part of it",
)


def read_first_of_each_folder(name: str, num_each: int, num_folders: int) -> dict[str, bytes]:
    """{path in the archive: bytes} of the first files of its first folders."""
    found: dict[str, bytes] = {}
    counts: Counter[str] = Counter()
    with tarfile.open(find_real_file(name)) as source:
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


def read_photographs(num: int) -> dict[str, bytes]:
    """{synset: bytes of a JPEG} of ImageNet's sample photographs, one a class."""
    found = read_first_of_each_folder("photos.tar.gz", num, 1)
    return {PurePosixPath(name).name[:9]: data for name, data in found.items()}
