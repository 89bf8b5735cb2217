"""How fast pictures are predicted, side by side with the plain PyTorch DataLoader loop, in one run.

    python -m benchmarks.predict [--repeats 3] [--pictures 1002] [--memory] [--out benchmarks/results/predict.json]

ResNet-18 at 224 px over JPEG files to a Parquet table. Needs the photographs of ../shared (photos.tar.gz), and
the extra `openvino`: without it what it does is left out. Both sides read the same files and decode
them in as many processes as there are processors; the seconds count from the first file to the finished table,
imports and the network's conversion left out on both sides. Ours and the peer's runs take turns; the rates are
medians. The weights are random, which changes no speed; how far int8 agrees with fp32 is measured by
`convoy predict` itself, on validation pictures, before it uses it. Seven minutes on two quiet processors.

--memory: also what the road from 500,000 small pictures to the table and its summary holds at its peak, beside the
same with 10,000: memory of the process and its workers that is theirs alone (RssAnon of /proc), looked at every
20 ms. Some minutes more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import DATASETS, ROOT, measure_peak_mb, unpack_dataset

GOALS = {"fp32": 1.8, "bf16": 3.4, "int8": 5.5}
THIS_BENCHMARK = (sys.executable, "-m", "benchmarks.predict")  # from ROOT
NUM_CPUS = len(os.sched_getaffinity(0))

PEER = """
import hashlib, sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
import torch, torchvision
from PIL import Image
from torchvision import transforms

folder, out, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
network = torchvision.models.resnet18(weights=None, num_classes=10).eval()
steps = transforms.Compose([transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor(),
                            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))])

class Files(torch.utils.data.Dataset):
    def __init__(self):
        self.files = sorted(folder.rglob("*.jpg"))
    def __len__(self):
        return len(self.files)
    def __getitem__(self, number):
        with Image.open(self.files[number]) as picture:
            return steps(picture.convert("RGB")), str(self.files[number])

start = time.perf_counter()
loader = torch.utils.data.DataLoader(Files(), batch_size=64, num_workers=workers)
rows = []
with torch.inference_mode():
    for images, names in loader:
        best = torch.softmax(network(images), 1).max(1)
        rows += [{"uri": n, "label": str(int(i)), "probability": float(p)}
                 for n, i, p in zip(names, best.indices, best.values)]
pq.write_table(pa.Table.from_pylist(rows), out)
print(time.perf_counter() - start)
"""


def main() -> None:
    """Measure, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1002)
    parser.add_argument(
        "--memory", action="store_true", help="also measure memory, at 10,000 and 500,000 pictures"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "predict.json")
    parser.add_argument(
        "--ours", nargs=4, metavar=("FOLDER", "WORK", "ENGINE", "PRECISION"), help=argparse.SUPPRESS
    )
    parser.add_argument("--many", nargs=2, metavar=("NUM", "WORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(time_predict(Path(options.ours[0]), Path(options.ours[1]), *options.ours[2:]))
        return
    if options.many:
        predict_many(int(options.many[0]), Path(options.many[1]))
        return
    if not DATASETS.is_dir():
        raise SystemExit(f"error: {DATASETS} is missing; this benchmark measures on its pictures")
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.repeats, options.pictures)
        if options.memory:
            results.append(measure_memory(Path(folder)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for one in results:
        print(f"{one['name']:72} ours {one['ours']} peer {one['peer']} {one['unit']} "
              f"ratio {one['ratio']} goal {one['goal']}")  # fmt: skip


def measure(work: Path, repeats: int, num: int) -> list[dict[str, Any]]:
    """One row a precision; where this machine does not have it, the row says so and holds no number."""
    from lightning_modules.inference.availability import describe_unavailability

    for precision in GOALS:
        if why := describe_unavailability("openvino", precision):
            print(f"OpenVINO in {precision} is left out: {why}", file=sys.stderr)
    photos = write_photos(work, num)
    peer: list[float] = []
    ours: dict[str, list[float]] = {}
    kinds = {
        "fp32": choose_engine("fp32"),
        "bf16": choose_engine("bf16"),
        "int8": choose_engine("int8"),
        "plain": "pytorch",
    }
    for turn in range(repeats):
        peer.append(run_timed([sys.executable, "-c", PEER, photos, work / "peer.parquet", NUM_CPUS]))
        for precision, engine in kinds.items():
            if engine is not None:
                wanted = "fp32" if precision == "plain" else precision
                command = [
                    *THIS_BENCHMARK,
                    "--ours",
                    photos,
                    work / f"{precision}-{turn}",
                    engine,
                    wanted,
                ]
                ours.setdefault(precision, []).append(run_timed(command))
    theirs = num / statistics.median(peer)
    name = f"ResNet-18 at 224 px, {num} JPEG files to Parquet"
    results = []
    for precision, goal in GOALS.items():
        engine = kinds[precision]
        if engine is None:
            why = describe_unavailability("openvino", precision) or ""
            results.append(make_row(f"{name}, {precision}: not to be had here ({why})", None, theirs, goal))
        else:
            rate = num / statistics.median(ours[precision])
            results.append(make_row(f"{name}, {precision} ({engine})", rate, theirs, goal))
    results.append(make_row(f"{name}, fp32 (pytorch)", num / statistics.median(ours["plain"]), theirs, 1.0))
    return results


def choose_engine(precision: str) -> str | None:
    """Choose the engine that the flow would try first."""
    from lightning_modules.inference.availability import describe_unavailability
    from lightning_modules.inference.engine_selection import ENGINES

    return next((name for name in ENGINES if describe_unavailability(name, precision) is None), None)


def make_row(name: str, ours: float | None, peer: float, goal: float) -> dict[str, Any]:
    """One row; ratio is ours over peer, larger is better; None where there is nothing to measure."""
    return {
        "name": name,
        "ours": None if ours is None else float(f"{ours:.4g}"),
        "peer": float(f"{peer:.4g}"),
        "ratio": None if ours is None else round(ours / peer, 2),
        "goal": goal,
        "unit": "pictures/s",
    }


def time_predict(photos: Path, work: Path, engine_name: str, precision: str) -> float:
    """Seconds of the flow's own code, without Prefect around it; the parts are new each time."""
    import numpy as np

    from flows.prediction.image_stream import open_images
    from flows.prediction.predictor import Predictor
    from flows.prediction.table_writer import predict_table
    from flows.promotion.model_registry import Version
    from imageset.utils.progress import SilentProgress
    from lightning_modules.inference.engines import make_engine

    bundle = make_bundle()
    engine = make_engine(
        bundle, engine_name, precision, work.parent / "engines", CalibrationImages(photos, bundle.spec)
    )
    engine.logits(np.zeros((8, *bundle.spec.shape), np.uint8))
    answers = Predictor(bundle, engine, Version("bench", 1, ""), {"batch_size": 64, "top_k": 3})
    start = time.perf_counter()
    parts = answers.open_cache(work / "parts")
    with parts.cache_lock(on_busy=lambda: None):
        predict_table(open_images(str(photos)), answers, parts, work / "out.parquet", SilentProgress())
    return time.perf_counter() - start


def measure_memory(work: Path) -> dict[str, Any]:
    """Compare the peak at 10,000 pictures with that at 500,000."""
    peaks = []
    for num in (10_000, 500_000):
        peaks.append(measure_peak_mb([*THIS_BENCHMARK, "--many", str(num), work / f"many-{num}"]))
        print(f"memory at {num:,} pictures: {peaks[-1]:.0f} MB", file=sys.stderr)
    row = make_row("memory of a prediction, 500,000 against 10,000 pictures", 1 / peaks[1], 1 / peaks[0], 0.91)
    return {**row, "unit": "1/MB"}


def predict_many(num: int, work: Path) -> None:
    """Small pictures, each of other bytes, to a table and its summary; what the flow does, without Prefect."""
    import io

    import numpy as np
    from PIL import Image

    from flows.prediction.image_stream import ImageStream
    from flows.prediction.predictor import Predictor
    from flows.prediction.summary import render_prediction_markdown
    from flows.prediction.table_writer import predict_table
    from flows.promotion.model_registry import Version
    from imageset.utils.progress import SilentProgress
    from lightning_modules.inference.engines import make_engine

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "JPEG")
    once = buffer.getvalue()
    pictures = ImageStream(
        num,
        lambda: ((f"{n:06d}.jpg", lambda n=n: once + b"%d" % n) for n in range(num)),
        None,  # type: ignore[misc]
    )
    bundle = make_bundle("lightning_modules.networks.ConvNet", {"filters": [8, 8, 8], "hidden": [16]}, 32)
    engine = make_engine(bundle, choose_engine("fp32") or "pytorch", "fp32", work / "engines")
    answers = Predictor(bundle, engine, Version("bench", 1, ""), {"batch_size": 64, "top_k": 3})
    parts = answers.open_cache(work / "parts")
    with parts.cache_lock(on_busy=lambda: None):
        counts = predict_table(pictures, answers, parts, work / "out.parquet", SilentProgress())
        render_prediction_markdown(
            "many", counts, answers.to_metadata(), parts.iter_rows(counts.shard_names), pictures, bundle.spec
        )
    assert counts.num_rows == num


class CalibrationImages:
    """The first photographs, in the place of a validation split."""

    def __init__(self, photos: Path, spec: Any) -> None:
        self.files, self.spec = sorted(photos.rglob("*.jpg"))[:64], spec

    def __len__(self) -> int:
        return len(self.files)

    def read_batch(self, positions: Any) -> Any:
        import numpy as np

        from imageset.decoding.decoder import decode

        return np.stack([decode(self.files[i].read_bytes(), self.spec) for i in positions])


def make_bundle(
    class_path: str = "lightning_modules.networks.TorchvisionNet",
    init_args: dict[str, Any] | None = None,
    size: int = 224,
) -> Any:
    """Make a network of random weights; ResNet-18 with the peer's: drawn after the same seed."""
    import torch

    from lightning_modules.bundle import Bundle, BundleInfo
    from lightning_modules.networks.factory import make_network

    torch.manual_seed(0)
    if init_args is None:
        init_args = {"name": "resnet18", "stem": "standard"}
    network = {"class_path": class_path, "init_args": init_args}
    decode = {"size": size, "channels": 3, "fit": "crop", "interpolation": "bilinear", "max_pixels": 178_956_970}
    info = BundleInfo(
        network, tuple("0123456789"), decode, (0.5,) * 3, (0.25,) * 3, {"fingerprint": "", "name": "bench"}, {}
    )
    return Bundle(info, make_network(network, 3, 10).eval(), "bench")


def run_timed(command: list[Any]) -> float:
    """Run a command; return the seconds that it measured itself."""
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def write_photos(work: Path, num: int) -> Path:
    """Write the photographs as often as needed, each time under new bytes."""
    unpack_dataset("photos.tar.gz", work / "once")
    once = sorted((work / "once").rglob("*.JPEG"))
    target = work / "photos"
    target.mkdir()
    for number in range(num):
        data = once[number % len(once)].read_bytes() + b"%d" % (number // len(once))
        (target / f"{number:05d}.jpg").write_bytes(data)
    return target


if __name__ == "__main__":
    main()
