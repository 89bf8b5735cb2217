"""Flip single bits in every kind of file that is read back, and compare with an undisturbed run.

    python -m benchmarks.bit_flips [--flips N]

For each file, N bits are flipped one at a time; half of the flips keep the file's time, as a failing disk does.
The outcome of each is one of:
    healed   the result is that of the undisturbed run: the file was made again, or the bit is not used
    named    an error in one line names the damage
    said     the result is another one, and a line says why
    false    the result is another one, and nothing was said
    trace    any other exception
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import logging.handlers
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from imageset.exceptions import UserError
from tests.helpers.images import encode_noise, make_image_folder, write_digit_images
from tests.helpers.models import make_untrained_bundle

if TYPE_CHECKING:
    from lightning_modules.bundle import Bundle

OUTCOMES = ("healed", "named", "said", "false", "trace")

NORMALIZE_PARAMS = {
    "size_px": 16, "channels": "auto", "fit": "crop", "interpolation": "bilinear", "max_pixels": 1_000_000,
    "max_reject_fraction": 0.05, "split": {"seed": 0, "val": 0.2, "test": 0.2},
}  # fmt: skip


LINES = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)  # what was logged


@dataclass(frozen=True)
class Case:
    """A kind of files, and a use of them whose result is compared.

    Attributes:
        kind: its name in the table.
        folder: holds the files.
        pattern: of the files below it that are damaged.
        use: takes a copy of the folder and returns the result.
        keeps_time: whether every second flip keeps the file's time.
    """

    kind: str
    folder: Path
    pattern: str
    use: Callable[[Path], object]
    keeps_time: bool = True


def main() -> None:
    """Print the outcomes for each file as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=20, metavar="N")
    flips = parser.parse_args().flips
    logging.getLogger("flows").addHandler(LINES)
    logging.getLogger("flows").propagate = False
    total: Counter[str] = Counter()
    print_row("file", OUTCOMES)
    with tempfile.TemporaryDirectory() as scratch:
        for case in make_cases(Path(scratch)):
            with contextlib.redirect_stdout(io.StringIO()):
                case.use(case.folder)
            for path in sorted(path for path in case.folder.glob(case.pattern) if is_read_back(path)):
                outcomes = Counter(try_flip(case, path.relative_to(case.folder), seed) for seed in range(flips))
                total += outcomes
                print_row(f"{case.kind}: {path.name[-28:]}", [f"{outcomes[outcome]:,}" for outcome in OUTCOMES])
    print_row("total", [f"{total[outcome]:,}" for outcome in OUTCOMES])


def is_read_back(path: Path) -> bool:
    """Return whether a file is more than a lock or a page."""
    return path.is_file() and path.suffix != ".html" and not path.name.startswith(".") and path.stat().st_size > 0


def print_row(name: str, cells: Sequence[str]) -> None:
    """Print one row of the table."""
    print(f"{name:50} " + " ".join(f"{cell:>7}" for cell in cells), flush=True)


def try_flip(case: Case, name: Path, seed: int) -> str:
    """Flip a bit in a copy of a case's folder, use the copy, and return the outcome."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        copy = Path(scratch) / "copy"
        shutil.copytree(case.folder, copy)
        expected = case.use(copy)
        flip_bit(copy / name, seed, keep_time=case.keeps_time and seed % 2 == 1)
        LINES.buffer.clear()
        try:
            is_same = case.use(copy) == expected
            is_said = any("removed; " in line.getMessage() for line in LINES.buffer)
            return "healed" if is_same else "said" if is_said else "false"
        except UserError:
            return "named"
        except Exception:
            return "trace"


def flip_bit(path: Path, seed: int, keep_time: bool) -> None:
    """Flip a bit of a file; which one follows from the seed."""
    status, draws = path.stat(), random.Random(f"{path.name}{seed}")
    data = bytearray(path.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    path.unlink()  # it may be a link to another file
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


# ---- the kinds of files ---------------------------------------------------------------------------------------


def make_cases(scratch: Path) -> Iterator[Case]:
    """Yield each kind of files with a use of them."""
    source = make_image_folder(scratch / "set", num_each=12)
    (source / "ant" / "bad.png").write_bytes(encode_noise(5, 64, 64)[:3000])
    data = make_project(scratch / "data")
    ingest(source, data)
    normalize(data)
    yield Case("raw", data, "raw/*", partial(ingest_and_normalize, source))
    yield Case("dataset, opened", data, "normalized/*", read_dataset, keeps_time=False)
    yield Case("dataset, checked weekly", data, "normalized/*", check_dataset)
    yield Case("dataset, taken over", data, "normalized/*", normalize)
    yield Case("features", make_project(scratch / "features"), "**/*.safetensors", read_features)
    make_untrained_bundle(make_project(scratch / "models"))
    yield Case("bundle", scratch / "models", "bundle/*", load_logits)
    yield Case("engine", make_project(scratch / "engine"), "engines/**/*", partial(run_engine, scratch / "models"))
    digits = write_digit_images(scratch / "digits", classes="01", num_each=30)
    use = partial(predict, scratch / "models", digits)
    yield Case("predictions", make_project(scratch / "predictions"), "parts/*/*", use)
    yield Case("predictions, --new-only", scratch / "predictions", "parts/*/*", partial(use, new_only=True))


def make_project(folder: Path) -> Path:
    """Make a folder that counts as a project."""
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    return folder


def ingest(source: Path, project: Path) -> None:
    """Ingest a folder of pictures."""
    from imageset.raw.ingestion import ingest_source

    ingest_source(source, project / "raw", name="set")


def normalize(project: Path, out: str = "normalized") -> dict[str, bytes]:
    """Make the dataset from the raw data, and return its files."""
    from imageset.normalize.stage import normalize as run_stage

    run_stage(project / "raw", project / out, NORMALIZE_PARAMS, workers=1)
    return {path.name: path.read_bytes() for path in (project / out).iterdir()}


def ingest_and_normalize(source: Path, project: Path) -> object:
    """Ingest again and make a dataset from it; return its pictures."""
    ingest(source, project)
    normalize(project, f"out-{len(list(project.iterdir()))}")
    return read_dataset(project, max(path.name for path in project.glob("out-*")))


def read_dataset(project: Path, name: str = "normalized") -> object:
    """Open the dataset and return everything that a training reads from it."""
    from imageset.store.reader import ImageStore

    store = ImageStore.open(project / name)
    pictures = {}
    for part in ("train", "val", "test"):
        split = store.split(part)
        pixels = split.read_batch(np.arange(len(split)))
        rows = zip(split.image_ids, split.labels.tolist(), split.uris, pixels, strict=True)
        pictures |= {image_id: (part, label, uri, image.tobytes()) for image_id, label, uri, image in rows}
    return pictures, store.mean, store.std, store.classes


def check_dataset(project: Path) -> object:
    """Check the dataset as the weekly check does."""
    try:
        from imageset.store.reader import find_damaged_dataset_files
    except ImportError:  # of a version without it
        return read_dataset(project)
    if damaged := find_damaged_dataset_files(project / "normalized"):
        raise UserError(f"{damaged[0]}: damaged")
    return read_dataset(project)


def read_features(project: Path) -> object:
    """Read the features of images from their cache; those that are missing are written."""
    from lightning_modules.features.frozen_features import FeatureCache

    cache = FeatureCache(project, {"weights": "w"})
    ids = [bytes([number]) * 32 for number in range(8)]
    missing = [image_id for image_id in ids if image_id not in cache.read()]
    if missing:
        values = np.array([[image_id[0] / 7] * 16 for image_id in missing], np.float16)
        cache.add(missing, values, -values)
    return {
        image_id: (plain.tobytes(), mirrored.tobytes()) for image_id, (plain, mirrored) in cache.read().items()
    }


def load_logits(project: Path) -> object:
    """Load the bundle and return the logits of some pixels."""
    from lightning_modules.bundle import Bundle
    from lightning_modules.scoring import PyTorchEngine

    bundle = Bundle.load(project / "bundle")
    return PyTorchEngine(bundle).logits(draw_pixels()).tobytes(), bundle.info


def draw_pixels() -> np.ndarray:
    """Return pixels, uint8 (8, 32, 32, 1)."""
    return np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8)


def run_engine(models: Path, project: Path) -> object:
    """Select ONNX Runtime for a bundle, and return the logits of some pixels."""
    from lightning_modules.inference.engine_selection import AgreementLimits, select_engine

    bundle = make_convnet_bundle(models)
    limits = AgreementLimits(0.5, 0.5)
    engine, decision = select_engine(bundle, "onnxruntime", "fp32", None, limits, project / "engines")
    return engine.name, decision["seen"], engine.logits(draw_pixels()).tobytes()


@cache
def make_convnet_bundle(models: Path) -> Bundle:
    """Make a bundle with a network that ONNX can express."""
    import torch

    from lightning_modules.networks.factory import make_network

    bundle = make_untrained_bundle(models)
    layers = {"filters": [8, 16], "kernel_size": 3, "stride": 1, "padding": 1, "pool": "max", "pool_window": 2}
    head = {"grid": 3, "hidden": [32], "dropout": 0.2, "batch_norm": True}
    network = {"class_path": "lightning_modules.networks.ConvNet", "init_args": layers | head}
    torch.manual_seed(0)
    return replace(bundle, info=replace(bundle.info, network=network), network=make_network(network, 1, 10).eval())


def predict(models: Path, digits: Path, project: Path, new_only: bool = False) -> object:
    """Predict pictures with the cache of a project, and return the table."""
    from flows.prediction import cache
    from flows.prediction.image_stream import open_images
    from flows.prediction.predictor import Predictor
    from flows.prediction.table_writer import predict_table
    from flows.promotion.model_registry import Version
    from imageset.utils.progress import SilentProgress
    from lightning_modules.scoring import PyTorchEngine

    cache.MIN_SHARD_IMAGES, cache.MEAN_SHARD_IMAGES, cache.MAX_SHARD_IMAGES = 4, 8, 16
    bundle, params = make_untrained_bundle(models), {"batch_size": 8, "top_k": 3}
    predictor = Predictor(bundle, PyTorchEngine(bundle), Version("digits", 1, ""), params, num_workers=1)
    shards = predictor.open_cache(project / "parts")
    out = project / ("new.parquet" if new_only else "all.parquet")
    if new_only:
        out.unlink(missing_ok=True)
    with shards.cache_lock(on_busy=lambda: None):
        predict_table(open_images(str(digits)), predictor, shards, out, SilentProgress(), new_only=new_only)
    return pq.read_table(out).to_pylist()


if __name__ == "__main__":
    main()
