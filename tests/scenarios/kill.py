"""Kill -9 at random moments, run again: the result equals an undisturbed one, and nothing half is ever read.

    make kill            (python -m tests.scenarios.kill [--rounds 40] [--seed 0])

Ingest and normalize work on a source that has grown since the dataset that stands there was made. Each round kills
one of them, with all its processes, at a moment drawn over the time it takes; looks whether what is left can be
read; runs both again; and compares every byte with an undisturbed run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from imageset.exceptions import UserError
from imageset.raw import records as raw_records
from imageset.raw import shards
from imageset.store.reader import ImageStore
from tests.helpers.datasets import NORMALIZE_PARAMS, snapshot
from tests.helpers.images import make_image_folder
from tests.helpers.project import ROOT


def main() -> None:
    """Run the rounds; exit with 1 at the first that goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = make_image_folder(work / "set", num_each=150)
        (work / "params.yaml").write_text(
            yaml.safe_dump({"normalize": NORMALIZE_PARAMS | {"near_duplicate_bits": 4}})
        )
        run_both(work, "before")
        make_image_folder(source, num_each=100, first=150)
        for file in sorted(source.rglob("*.png"))[::40]:
            file.unlink()
        original = hash_folder(source)
        copy_data(work, "before", "undisturbed")
        seconds = run_both(work, "undisturbed")
        wanted = snapshot(work / "undisturbed")
        for number in range(options.rounds):
            shutil.rmtree(work / "killed", ignore_errors=True)
            copy_data(work, "before", "killed")
            stage = ("ingest", "normalize")[number % 2]
            if stage == "normalize":
                run_stage(work, "killed", "ingest")
            after_s = chance.uniform(0, 1.1 * seconds[stage])
            status = kill_stage(work, "killed", stage, after_s)
            left = check_readable(work / "killed")
            run_both(work, "killed")
            same = snapshot(work / "killed") == wanted and hash_folder(source) == original
            outcome = "same" if same else "DIFFERS"
            print(f"{number:3} {stage:9} {after_s:6.2f} s  status {status:3}  {left:20} {outcome}", flush=True)
            if not same:
                raise SystemExit(1)


def build_command(work: Path, name: str, stage: str) -> list[str]:
    """The command of a stage."""
    data = work / name
    if stage == "ingest":
        code = (
            "import sys; from imageset.raw.ingestion import ingest_source; "
            "ingest_source(sys.argv[1], sys.argv[2], name='set')"
        )
        return [sys.executable, "-c", code, str(work / "set"), str(data / "raw")]
    arguments = ["--raw", data / "raw", "--out", data / "normalized", "--params", work / "params.yaml"]
    return [sys.executable, "-m", "imageset", "normalize", "--workers", "2", *map(str, arguments)]


def run_stage(work: Path, name: str, stage: str) -> float:
    """Run a stage to its end; seconds."""
    start = time.perf_counter()
    subprocess.run(build_command(work, name, stage), cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def run_both(work: Path, name: str) -> dict[str, float]:
    """Run ingest and normalize; seconds of each."""
    return {stage: run_stage(work, name, stage) for stage in ("ingest", "normalize")}


def kill_stage(work: Path, name: str, stage: str, after_s: float) -> int:
    """Start a stage and kill it and its workers after so long; its exit status."""
    process = subprocess.Popen(
        build_command(work, name, stage),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def check_readable(data: Path) -> str:
    """Read all that is there; what says that it is whole must be."""
    records = raw_records.read_records(data / "raw")
    for image_id, content in shards.read_image_bytes(data / "raw", records["image_id"].to_pylist()):
        assert hashlib.sha256(content).hexdigest() == image_id
    try:
        store = ImageStore.open(data / "normalized")
    except UserError as error:
        assert "no such file" in str(error), error  # between two renames nothing stands there
        return "no dataset"
    for split in map(store.split, ("train", "val", "test")):
        pixels = split.read_batch(np.arange(len(split))).astype(np.int64)
        assert pixels.sum((1, 2)).tolist() == split.rows["sums"].to_pylist()
    return f"{len(store.index):,} pictures"


def copy_data(work: Path, name: str, to: str) -> None:
    """A second copy of raw and normalized data."""
    shutil.copytree(work / name, work / to)


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and the bytes of all files."""
    total = hashlib.sha256()
    for name, content in snapshot(folder).items():
        total.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return total.hexdigest()


if __name__ == "__main__":
    main()
