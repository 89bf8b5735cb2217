"""How fast imageset normalizes, side by side with torchvision's ImageFolder + DataLoader, in one run.

    python -m benchmarks.ingest [--repeats 5] [--out benchmarks/results/ingest.json]

Needs the real pictures of ../shared/datasets (photos.tar.gz, cifar10.tar.gz) and 20 GB of disk. Every measurement
is the median of `repeats` runs, ours and the peer's in turn. "whole command" counts from the start of a fresh
process to its end, on both sides; "steady peer" leaves out the peer's start and imports but not ours. "1% new"
compares a run over a dataset that stands, after 1% of new pictures came, with a full run. Such a run costs a third
of a second whatever there is, and 10 us for each picture that was there: with photographs, a full run over which
takes a millisecond each, it reaches the goal from about 40,000 on; with pictures of 32 px, a fiftieth of that,
never. Memory is what a command and its workers hold of their own at the peak (RssAnon of /proc, summed, looked at
every 20 ms), for 500,000 pictures against 50,000, measured once. About twelve minutes on two quiet processors, of
which the 48,000 photographs take five.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import DATASETS, ROOT, make_row, measure_peak_mb, unpack_dataset

PARAMS = {
    "channels": 3,
    "fit": "crop",
    "interpolation": "bilinear",
    "max_pixels": 178_956_970,
    "max_reject_fraction": 0.05,
    "fidelity": "exact",
    "split": {"seed": 0, "val": 0.15, "test": 0.15},
}
NUM_WORKERS = len(os.sched_getaffinity(0))

PEER = """
import sys, time
import torch
from torchvision import datasets, transforms
folder, size, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
steps = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()])
start = time.perf_counter()
loader = torch.utils.data.DataLoader(datasets.ImageFolder(folder, steps), batch_size=64, num_workers=workers)
for pixels, labels in loader:
    pass
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ingest.json")
    parser.add_argument("--without-memory", action="store_true", help="leave out what is slowest")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # on both sides modules are compiled once, not in every run
    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; this benchmark measures on its pictures")
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.repeats, with_memory=not options.without_memory)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for one in results:
        print(
            f"{one['name']:58} ours {one['ours']:>10} peer {one['peer']:>10} {one['unit']:12} "
            f"ratio {one['ratio']:>6} goal {one['goal']}"
        )


def measure(work: Path, repeats: int, with_memory: bool) -> list[dict[str, Any]]:
    """All results."""
    photos, cifar = write_photos(work), write_cifar(work)
    results = [measure_difference(photos), measure_near_duplicates()]
    for name, source, size, goal in (
        ("6,012 photographs to 224 px", photos, 224, 2.5),
        ("60,000 CIFAR-10 JPEGs to 32 px", cifar, 32, 8.0),
    ):
        num = sum(1 for file in source.rglob("*") if file.is_file())
        raw = ingest_source(source, work)
        ours, peer, steady = [], [], []
        for _ in range(repeats):
            ours.append(time_normalize(raw, work / "out", size))
            whole, loop = time_image_folder(source, size)
            peer.append(whole)
            steady.append(loop)
        rate, whole, loop = (num / statistics.median(times) for times in (ours, peer, steady))
        results += [
            make_row(f"{name}, whole command", rate, whole, goal, "pictures/s"),
            make_row(f"{name}, steady peer", rate, loop, goal, "pictures/s"),
            measure_one_percent(name, raw, num, size, work, repeats, num_full=repeats),
        ]
    large = measure_one_percent(
        "48,000 photographs to 224 px", work / "raw-photos", 48_000, 224, work, repeats, repeats
    )
    return results + [large] + (measure_memory(work) if with_memory else [])


def measure_one_percent(
    name: str, source: Path, num: int, size: int, work: Path, repeats: int, num_full: int
) -> dict[str, Any]:
    """How many full runs over `num` pictures take as long as one after 1% of new pictures came.

    The pictures are those of the raw data `source`, again and again under new bytes.
    """
    raw, grown = work / "raw-many", work / "raw-grown"
    ingest_many(source, num, raw)
    shutil.copytree(raw, grown, copy_function=link_shard)
    ingest_many(source, num + num // 100, grown)
    standing = work / "standing"
    full = [time_normalize(raw, standing, size) for _ in range(num_full)]
    added = []
    for _ in range(repeats):
        shutil.rmtree(work / "out", ignore_errors=True)
        shutil.copytree(standing, work / "out", copy_function=os.link)  # a run replaces the folder, never a file
        added.append(time_normalize(grown, work / "out", size, fresh=False))
    for folder in (raw, grown, standing, work / "out"):
        shutil.rmtree(folder)
    seconds, full_s = statistics.median(added), statistics.median(full)
    return make_row(f"{name}, full runs in the time of 1% new", 1 / seconds, 1 / full_s, 33.3, "runs/s")


def link_shard(file: str, target: str) -> None:
    """Shards never change; the tables beside them do."""
    (os.link if file.endswith(".tar") else shutil.copy2)(file, target)


def ingest_many(source: Path, num: int, raw: Path) -> None:
    """Ingest so many pictures made of those in the raw data `source`."""
    subprocess.run([sys.executable, "-c", MANY, str(source), str(num), str(raw), "ingest"], check=True, cwd=ROOT)


def measure_near_duplicates() -> dict[str, Any]:
    """Group a million perceptual hashes, a tenth of them near others; five minutes are allowed."""
    import numpy as np

    from imageset.splits.near_duplicates import group_near_duplicates

    num, random = 1_000_000, np.random.default_rng(0)
    phashes = random.integers(0, 2**64, num, np.uint64)
    one_bit = np.uint64(1) << random.integers(0, 64, num // 10).astype(np.uint64)
    phashes[: num // 10] = phashes[-num // 10 :] ^ one_bit
    start = time.perf_counter()
    groups = group_near_duplicates(phashes, 4, lambda one, other: np.ones(len(one), bool))
    seconds = time.perf_counter() - start
    assert (groups != np.arange(num)).sum() >= num // 10
    return make_row("1,000,000 perceptual hashes grouped", num / seconds, num / 300, 1.0, "hashes/s")


MANY = """
import sys
from imageset.utils.memory import give_freed_memory_back
if sys.argv[4] == "check":
    give_freed_memory_back()  # as `convoy check` does
from collections import Counter
import pyarrow.parquet as pq
import numpy as np
from imageset.sources.base import SourceImage

class Many:
    name, kind, multi_label, problem = "many", "folder", False, None
    passed_over, classes, splits = Counter(), Counter(), Counter()

    def __init__(self, raw, num):
        self.num = num
        table = pq.ParquetFile(raw + "/records.parquet").read(["label", "offset", "size", "shard"])
        self.labels = table["label"].unique().to_pylist()
        self.codes = table["label"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int8)
        self.places = [table[name].to_numpy().astype(np.int64) for name in ("shard", "offset", "size")]
        self.files = [open(f"{raw}/shard-{shard:05d}.tar", "rb") for shard in range(self.places[0].max() + 1)]

    def __len__(self):
        return self.num

    def describe(self):
        return "many"

    def __iter__(self):
        for number in range(self.num):
            turn, one = divmod(number, len(self.codes))
            label = self.labels[self.codes[one]]
            yield SourceImage(f"{label}/{number:06d}.jpg", label, None, None, lambda: self.read(turn, one))

    def read(self, turn, one):
        shard, offset, size = (int(column[one]) for column in self.places)
        self.files[shard].seek(offset)
        return self.files[shard].read(size) + b"%d" % turn

many, to = Many(sys.argv[1], int(sys.argv[2])), sys.argv[3]
if sys.argv[4] == "ingest":
    from imageset.raw.ingestion import ingest_source
    ingest_source(many, to)
else:
    from imageset.check import check_source
    from imageset.splits.split_rule import SplitRule
    print(len(check_source(many, rule=SplitRule(0, 0.15, 0.15)).text()))
"""


def measure_memory(work: Path) -> list[dict[str, Any]]:
    """Compare the peak at 50,000 pictures with that at 500,000, of ingest, normalize and check."""
    if not Path("/proc/self/task").is_dir():
        return []
    source, params = work / "raw-cifar", write_params(work, 32, near_duplicate_bits=4)
    peaks: dict[str, list[float]] = {"ingest": [], "normalize": [], "check": []}
    for num in (50_000, 500_000):
        raw, many = work / f"many-{num}", [sys.executable, "-c", MANY, str(source), str(num)]
        stage = [sys.executable, "-m", "imageset", "normalize", "--raw", raw, "--out", work / "out"]
        shutil.rmtree(work / "out", ignore_errors=True)
        peaks["ingest"].append(measure_peak_mb([*many, str(raw), "ingest"]))
        peaks["normalize"].append(measure_peak_mb([*stage, "--params", params]))
        peaks["check"].append(measure_peak_mb([*many, "-", "check"]))
        shutil.rmtree(raw)
    return [
        make_row(f"memory of {name}, 500,000 against 50,000 pictures", 1 / large, 1 / small, 0.91, "1/MB")
        for name, (small, large) in peaks.items()
    ]


def measure_difference(photos: Path) -> dict[str, Any]:
    """How many times our mean difference to Pillow fits into a tenth of a grey level."""
    import numpy as np

    from imageset.decoding import decoder
    from imageset.decoding import spec as decoding_spec

    spec = decoding_spec.DecodeSpec(224, 3, "crop", "bilinear", PARAMS["max_pixels"])  # type: ignore[arg-type]
    sums, quick = [], decoder._decode_jpeg_into
    for file in sorted(photos.rglob("00_*.jpg")):
        ours = decoder.decode(file.read_bytes(), spec).astype(float)
        decoder._decode_jpeg_into = lambda out, data, spec: None  # type: ignore[assignment]
        sums.append(float(np.abs(ours - decoder.decode(file.read_bytes(), spec)).mean()))
        decoder._decode_jpeg_into = quick
    return make_row(
        "mean difference to Pillow, of 255 (0.1 allowed)", 1 / statistics.mean(sums), 1 / 0.1, 1.0, "1/difference"
    )


def time_normalize(raw: Path, out: Path, size: int, fresh: bool = True) -> float:
    """Seconds of the whole command."""
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    params = write_params(raw.parent, size)
    command = [sys.executable, "-m", "imageset", "normalize", "--raw", raw, "--out", out, "--params", params]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def write_params(folder: Path, size: int, **others: Any) -> Path:
    """Write a params.yaml."""
    import yaml

    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"normalize": PARAMS | {"size_px": size} | others}))
    return path


def time_image_folder(source: Path, size: int) -> tuple[float, float]:
    """Seconds of the peer's whole process, and of its loop alone."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEER, str(source), str(size), str(NUM_WORKERS)],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, float(done.stdout)


def ingest_source(source: Path, work: Path) -> Path:
    """Make the raw data of a source."""
    raw = work / f"raw-{source.name}"
    code = "import sys; from imageset.raw.ingestion import ingest_source; ingest_source(sys.argv[1], sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(source), str(raw)], check=True, cwd=ROOT)
    return raw


def write_photos(work: Path) -> Path:
    """Write the photographs 36 times, each time under new bytes, in two classes."""
    unpack_dataset("photos.tar.gz", work / "photos-once")
    target = work / "photos"
    for number, file in enumerate(sorted((work / "photos-once").rglob("*.JPEG"))):
        for turn in range(36):
            copy = target / "ab"[number % 2] / f"{turn:02d}_{number:04d}.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes() + b"%02d" % turn)
    return target


def write_cifar(work: Path) -> Path:
    """All 60,000 pictures, one folder a class."""
    unpack_dataset("cifar10.tar.gz", work / "cifar-split")
    target = work / "cifar"
    for file in (work / "cifar-split").rglob("*.jpg"):
        copy = target / file.parent.name / f"{file.parents[1].name}_{file.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        file.rename(copy)
    return target


if __name__ == "__main__":
    main()
