"""How fast imageset normalizes, side by side with torchvision's ImageFolder + DataLoader, in one run.

    python benchmarks/ingest.py [--repeats 5] [--out benchmarks/results/ingest.json]

Needs the real pictures of ../shared/datasets (photos.tar.gz, cifar10.tar.gz). Every measurement is the median of
`repeats` runs, ours and the peer's in turn. "whole command" counts from the start of a fresh process to its end,
on both sides; "steady" leaves out the peer's start and imports but not ours.
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
    options = parser.parse_args()
    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; this benchmark measures on its pictures")
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for one in results:
        print(
            f"{one['name']:58} ours {one['ours']:>10} peer {one['peer']:>10} {one['unit']:12} "
            f"ratio {one['ratio']:>6} goal {one['goal']}"
        )


def measure(work: Path, repeats: int) -> list[dict[str, Any]]:
    """All results."""
    photos, cifar = make_photos(work), make_cifar(work)
    results = []
    for name, source, size, goal in (
        ("1,002 photographs to 224 px", photos, 224, 2.5),
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
        ]
    results.append(one_percent(cifar, work, repeats))
    results.append(difference(photos))
    return results


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


def one_percent(source: Path, work: Path, repeats: int) -> dict[str, Any]:
    """The share of a full run that 1% of new pictures costs, as runs per full run."""
    files = sorted(file for file in source.rglob("*") if file.is_file())
    full, added = [], []
    for number in range(repeats):
        raw = ingested(source, work)
        shutil.rmtree(work / "out", ignore_errors=True)
        full.append(normalize(raw, work / "out", 32, fresh=False))
        for file in files[::100]:
            copy = file.with_name(f"new{number}_{file.name}")
            copy.write_bytes(file.read_bytes() + b"%d" % number)
        ingested(source, work)
        added.append(normalize(raw, work / "out", 32, fresh=False))
    return result(
        "1% new pictures: full runs in the time of one such run",
        1 / statistics.median(added),
        1 / statistics.median(full),
        33.3,
        "runs/s",
    )


def difference(photos: Path) -> dict[str, Any]:
    """How many times our mean difference to Pillow fits into a tenth of a grey level."""
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from imageset import decode

    spec = decode.DecodeSpec(224, 3, "crop", "bilinear", PARAMS["max_pixels"])  # type: ignore[arg-type]
    sums, quick = [], decode._measure_jpeg
    for file in sorted(photos.rglob("0_*.jpg")):
        ours = decode.decode(file.read_bytes(), spec).astype(float)
        decode._measure_jpeg = lambda data, spec: None  # type: ignore[assignment]
        sums.append(float(np.abs(ours - decode.decode(file.read_bytes(), spec)).mean()))
        decode._measure_jpeg = quick
    return result(
        "mean difference to Pillow, of 255 (0.1 allowed)", 1 / statistics.mean(sums), 1 / 0.1, 1.0, "1/difference"
    )


def normalize(raw: Path, out: Path, size: int, fresh: bool = True) -> float:
    """Seconds of the whole command."""
    import yaml

    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    params = raw.parent / "params.yaml"
    params.write_text(yaml.safe_dump({"normalize": PARAMS | {"size_px": size}}))
    command = [sys.executable, "-m", "imageset", "normalize", "--raw", raw, "--out", out, "--params", params]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - start


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
    """The photographs six times, each time under new bytes, in two classes."""
    unpack("photos.tar.gz", work / "photos-once")
    target = work / "photos"
    for number, file in enumerate(sorted((work / "photos-once").rglob("*.JPEG"))):
        for turn in range(6):
            copy = target / "ab"[number % 2] / f"{turn}_{number:04d}.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes() + b"%d" % turn)
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
