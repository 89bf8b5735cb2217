"""A prediction that kills itself at one of its renames; started by test_predict_killed.py and `make kill`.

    python -m tests.flows.killed_predict FOLDER all|new [POINT ...] [-- FOLDER all|new [POINT ...]] ...

FOLDER holds `pictures`; a table of them is written to FOLDER/out.parquet. For each POINT the prediction runs in a
process of its own that is killed (SIGKILL) just before its rename number POINT, or just after it for -POINT. Last,
one runs to its end and prints how many rows it wrote. `new` is --new-only.
"""

import os
import signal
import sys
from pathlib import Path

from flows import parts as parts_module
from flows.answers import Answers
from flows.pictures import open_pictures
from flows.registry import Version
from flows.tables import predict_table
from imageset.progress import Silent
from lightning_modules.bundle import BundleInfo, save_bundle
from lightning_modules.engines import PyTorchEngine

MANY_PARTS = {"MIN_PICTURES": 4, "MEAN_PICTURES": 8}  # from few pictures


def main() -> None:
    for name, value in MANY_PARTS.items():
        setattr(parts_module, name, value)
    for group in " ".join(sys.argv[1:]).split(" -- "):
        folder, mode, *points = group.split()
        run(Path(folder), mode == "new", [int(point) for point in points])


def run(folder: Path, new_only: bool, points: list[int]) -> None:
    if os.fork() == 0:
        untrained(folder)
        os._exit(0)
    os.wait()
    for point in points:
        child = os.fork()
        if child == 0:
            die_at(point)
            predict(folder, new_only)
            os._exit(0)  # fewer renames than that
        status = os.waitpid(child, 0)[1]
        print(point, "killed" if os.WIFSIGNALED(status) else "ended", flush=True)
    print(predict(folder, new_only), flush=True)


def predict(folder: Path, new_only: bool) -> str:
    """What `convoy predict` does after it has found the model."""
    bundle = untrained(folder)
    answers = Answers(
        bundle, PyTorchEngine(bundle), Version("digits", 1, ""), {"batch_size": 8, "top_k": 3}, workers=1
    )
    parts, pictures = answers.parts(folder / "parts"), open_pictures(str(folder / "pictures"))
    with parts.alone(wait=lambda: None):
        counts = predict_table(pictures, answers, parts, folder / "out.parquet", Silent(), new_only=new_only)
    return f"{counts.num_rows} rows, {answers.num_taken_over} taken over"


def untrained(folder: Path):
    """A small network with weights drawn once."""
    import torch

    from lightning_modules.bundle import Bundle, make_network

    place = folder / "bundle"
    if not place.is_dir():
        torch.manual_seed(0)
        network = {"class_path": "lightning_modules.networks.LeNet5", "init_args": {}}
        decode = {"size": 32, "channels": 1, "fit": "crop", "interpolation": "bilinear", "max_pixels": 10**6}
        info = BundleInfo(
            network, tuple("0123456789"), decode, (0.3,), (0.3,), {"fingerprint": "f", "name": "digits"}, {}
        )
        place.mkdir()
        save_bundle(place, info, make_network(network, 1, 10))
    return Bundle.load(place)


def die_at(point: int) -> None:
    """Count renames; die before (or, below zero, after) the one of this number."""
    replace, count = os.replace, 0

    def counting(source, target):
        nonlocal count
        count += 1
        if count == point:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == -point:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counting


if __name__ == "__main__":
    main()
