"""How fast imageset normalizes, side by side with torchvision's ImageFolder + DataLoader, in one run.

    python benchmarks/ingest.py [--repeats 5] [--out benchmarks/results/ingest.json]

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
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATASETS = ROOT.parent / "shared" / "datasets"
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
    photos, cifar = make_photos(work), make_cifar(work)
    results = [difference(photos), near_duplicates()]
    for name, source, size, goal in (
        ("6,012 photographs to 224 px", photos, 224, 2.5),
        ("60,000 CIFAR-10 JPEGs to 32 px", cifar, 32, 8.0),
    ):
        num = sum(1 for file in source.rglob("*") if file.is_file())
        raw = ingested(source, work)
        ours, peer, steady = [], [], []
        for _ in range(repeats):
            ours.append(normalize(raw, work / "out", size))
            whole, loop = image_folder(source, size)
            peer.append(whole)
            steady.append(loop)
        rate, whole, loop = (num / statistics.median(times) for times in (ours, peer, steady))
        results += [
            result(f"{name}, whole command", rate, whole, goal, "pictures/s"),
            result(f"{name}, steady peer", rate, loop, goal, "pictures/s"),
            one_percent(name, raw, num, size, work, repeats, num_full=repeats),
        ]
    large = one_percent("48,000 photographs to 224 px", work / "raw-photos", 48_000, 224, work, repeats, repeats)
    return results + [large] + (memory(work) if with_memory else [])


def result(name: str, ours: float, peer: float, goal: float, unit: str) -> dict[str, Any]:
    """One row; ratio is ours over peer, larger is better."""
    return {
        "name": name,
        "ours": float(f"{ours:.4g}"),
        "peer": float(f"{peer:.4g}"),
        "ratio": round(ours / peer, 2),
        "goal": goal,
        "unit": unit,
    }


def one_percent(
    name: str, source: Path, num: int, size: int, work: Path, repeats: int, num_full: int
) -> dict[str, Any]:
    """How many full runs over `num` pictures take as long as one after 1% of new pictures came.

    The pictures are those of the raw data `source`, again and again under new bytes.
    """
    raw, grown = work / "raw-many", work / "raw-grown"
    run_many(source, num, raw)
    shutil.copytree(raw, grown, copy_function=link_shard)
    run_many(source, num + num // 100, grown)
    standing = work / "standing"
    full = [normalize(raw, standing, size) for _ in range(num_full)]
    added = []
    for _ in range(repeats):
        shutil.rmtree(work / "out", ignore_errors=True)
        shutil.copytree(standing, work / "out", copy_function=os.link)  # a run replaces the folder, never a file
        added.append(normalize(grown, work / "out", size, fresh=False))
    for folder in (raw, grown, standing, work / "out"):
        shutil.rmtree(folder)
    seconds, full_s = statistics.median(added), statistics.median(full)
    return result(f"{name}, full runs in the time of 1% new", 1 / seconds, 1 / full_s, 33.3, "runs/s")


def link_shard(file: str, target: str) -> None:
    """Shards never change; the tables beside them do."""
    (os.link if file.endswith(".tar") else shutil.copy2)(file, target)


def run_many(source: Path, num: int, raw: Path) -> None:
    """Ingest so many pictures made of those in the raw data `source`."""
    subprocess.run([sys.executable, "-c", MANY, str(source), str(num), str(raw), "ingest"], check=True, cwd=ROOT)


def near_duplicates() -> dict[str, Any]:
    """A million perceptual hashes grouped, a tenth of them near others; five minutes are allowed."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from imageset.near import near_groups

    num, random = 1_000_000, np.random.default_rng(0)
    phashes = random.integers(0, 2**64, num, np.uint64)
    one_bit = np.uint64(1) << random.integers(0, 64, num // 10).astype(np.uint64)
    phashes[: num // 10] = phashes[-num // 10 :] ^ one_bit
    start = time.perf_counter()
    groups = near_groups(phashes, 4, lambda one, other: np.ones(len(one), bool))
    seconds = time.perf_counter() - start
    assert (groups != np.arange(num)).sum() >= num // 10
    return result("1,000,000 perceptual hashes grouped", num / seconds, num / 300, 1.0, "hashes/s")


MANY = """
import sys
from imageset.memory import give_freed_memory_back
if sys.argv[4] == "check":
    give_freed_memory_back()  # as `convoy check` does
from collections import Counter
import pyarrow.parquet as pq
import numpy as np
from imageset.sources import SourcePicture

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
            yield SourcePicture(f"{label}/{number:06d}.jpg", label, None, None, lambda: self.read(turn, one))

    def read(self, turn, one):
        shard, offset, size = (int(column[one]) for column in self.places)
        self.files[shard].seek(offset)
        return self.files[shard].read(size) + b"%d" % turn

many, to = Many(sys.argv[1], int(sys.argv[2])), sys.argv[3]
if sys.argv[4] == "ingest":
    from imageset.raw import ingest
    ingest(many, to)
else:
    from imageset.check import check_source
    from imageset.split import SplitRule
    print(len(check_source(many, rule=SplitRule(0, 0.15, 0.15)).text()))
"""


def memory(work: Path) -> list[dict[str, Any]]:
    """The peak at 50,000 pictures over that at 500,000, of ingest, normalize and check."""
    if not Path("/proc/self/task").is_dir():
        return []
    source, params = work / "raw-cifar", write_params(work, 32, near_duplicate_bits=4)
    peaks: dict[str, list[float]] = {"ingest": [], "normalize": [], "check": []}
    for num in (50_000, 500_000):
        raw, many = work / f"many-{num}", [sys.executable, "-c", MANY, str(source), str(num)]
        stage = [sys.executable, "-m", "imageset", "normalize", "--raw", raw, "--out", work / "out"]
        shutil.rmtree(work / "out", ignore_errors=True)
        peaks["ingest"].append(peak_mb([*many, str(raw), "ingest"]))
        peaks["normalize"].append(peak_mb([*stage, "--params", params]))
        peaks["check"].append(peak_mb([*many, "-", "check"]))
        shutil.rmtree(raw)
    return [
        result(f"memory of {name}, 500,000 against 50,000 pictures", 1 / large, 1 / small, 0.91, "1/MB")
        for name, (small, large) in peaks.items()
    ]


def peak_mb(command: list[Any]) -> float:
    """The most memory that a command and its children hold of their own at any time."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(anonymous_kb, family(process.pid))))
            time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"error: {command[:3]} ended with status {process.returncode}")
    return peak / 1000


def family(pid: int) -> list[int]:
    """A process and all its children."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):  # it has ended
                found += map(int, task.read_text().split())
    return found


def anonymous_kb(pid: int) -> int:
    """Memory of its own that a process holds; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def difference(photos: Path) -> dict[str, Any]:
    """How many times our mean difference to Pillow fits into a tenth of a grey level."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from imageset import decode

    spec = decode.DecodeSpec(224, 3, "crop", "bilinear", PARAMS["max_pixels"])  # type: ignore[arg-type]
    sums, quick = [], decode._decode_jpeg_into
    for file in sorted(photos.rglob("00_*.jpg")):
        ours = decode.decode(file.read_bytes(), spec).astype(float)
        decode._decode_jpeg_into = lambda out, data, spec: None  # type: ignore[assignment]
        sums.append(float(np.abs(ours - decode.decode(file.read_bytes(), spec)).mean()))
        decode._decode_jpeg_into = quick
    return result(
        "mean difference to Pillow, of 255 (0.1 allowed)", 1 / statistics.mean(sums), 1 / 0.1, 1.0, "1/difference"
    )


def normalize(raw: Path, out: Path, size: int, fresh: bool = True) -> float:
    """Seconds of the whole command."""
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    params = write_params(raw.parent, size)
    command = [sys.executable, "-m", "imageset", "normalize", "--raw", raw, "--out", out, "--params", params]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


def write_params(folder: Path, size: int, **others: Any) -> Path:
    """A params.yaml."""
    import yaml

    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"normalize": PARAMS | {"size_px": size} | others}))
    return path


def image_folder(source: Path, size: int) -> tuple[float, float]:
    """Seconds of the peer's whole process, and of its loop alone."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEER, str(source), str(size), str(NUM_WORKERS)],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - start, float(done.stdout)


def ingested(source: Path, work: Path) -> Path:
    """The raw data of a source."""
    raw = work / f"raw-{source.name}"
    code = "import sys; from imageset.raw import ingest; ingest(sys.argv[1], sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(source), str(raw)], check=True, cwd=ROOT)
    return raw


def make_photos(work: Path) -> Path:
    """The photographs 36 times, each time under new bytes, in two classes."""
    unpack("photos.tar.gz", work / "photos-once")
    target = work / "photos"
    for number, file in enumerate(sorted((work / "photos-once").rglob("*.JPEG"))):
        for turn in range(36):
            copy = target / "ab"[number % 2] / f"{turn:02d}_{number:04d}.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes() + b"%02d" % turn)
    return target


def make_cifar(work: Path) -> Path:
    """All 60,000 pictures, one folder a class."""
    unpack("cifar10.tar.gz", work / "cifar-split")
    target = work / "cifar"
    for file in (work / "cifar-split").rglob("*.jpg"):
        copy = target / file.parent.name / f"{file.parents[1].name}_{file.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        file.rename(copy)
    return target


def unpack(archive: str, target: Path) -> None:
    """Unpack one of the shared sets."""
    with tarfile.open(DATASETS / archive) as file:
        file.extractall(target, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


if __name__ == "__main__":
    main()
