"""Temporary folders of processes that were killed, with real processes and a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageset.sources.factory import open_source
from imageset.utils.tempdirs import ReclaimedTempDir, remove_abandoned_dirs
from tests.helpers.datasets import pack_folder
from tests.helpers.images import make_image_folder
from tests.helpers.servers import serve_http

FETCH = "import sys; from imageset.sources.factory import open_source; open_source(sys.argv[1])"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "tmp"


def wait_for_bytes(folder: Path) -> Path:
    """The scratch folder in `folder` once a file in it holds bytes."""
    for _ in range(1000):
        if found := [file for file in folder.rglob("*.zip") if file.stat().st_size]:
            return found[0].parent
        time.sleep(0.01)
    raise AssertionError("nothing was fetched")


def test_what_a_killed_fetch_leaves_the_next_one_removes(tmp_path: Path, temporary: Path) -> None:
    archive = pack_folder(make_image_folder(tmp_path / "set"), tmp_path / "set.zip").read_bytes()
    with serve_http() as site:
        site.files["/set.zip"], site.faults["/set.zip"] = archive, ["stall"]
        process = subprocess.Popen(
            [sys.executable, "-c", FETCH, f"{site.url}/set.zip"], env={**os.environ, "TMPDIR": str(temporary)}
        )
        left = wait_for_bytes(temporary)
        remove_abandoned_dirs()
        assert left.is_dir()  # its process is alive
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert left.is_dir()
        source = open_source(f"{site.url}/set.zip")
        assert not left.exists() and len(source) == 40 and len(list(temporary.iterdir())) == 1


def test_what_others_keep_beside_scratch_folders_stays(temporary: Path) -> None:
    (temporary / "convoy-pictures").mkdir()
    (temporary / "elsewhere").mkdir()
    (temporary / "convoy-link.scratch").symlink_to(temporary / "elsewhere")
    (temporary / "convoy-file.scratch").touch()
    (temporary / "convoy-dead1234.scratch" / "below").mkdir(parents=True)
    with ReclaimedTempDir() as mine, ReclaimedTempDir() as other:
        assert Path(mine).is_dir() and Path(other).is_dir() and mine != other
    left = {entry.name for entry in temporary.iterdir()}
    assert left == {"convoy-pictures", "elsewhere", "convoy-link.scratch", "convoy-file.scratch"}
