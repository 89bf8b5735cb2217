"""A prediction that kills itself at one of its renames; started by test_predictor_killed.py and `make kill`.

    python -m tests.helpers.killed_prediction FOLDER all|new [POINT ...] [-- FOLDER all|new [POINT ...]] ...

FOLDER holds `pictures`; a table of them is written to FOLDER/out.parquet. For each POINT the prediction runs in a
process of its own that is killed (SIGKILL) just before its rename number POINT, or just after it for -POINT. Last,
one runs to its end and prints how many rows it wrote. `new` is --new-only.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from flows.prediction import cache
from flows.prediction.image_stream import open_images
from flows.prediction.predictor import Predictor
from flows.prediction.table_writer import predict_table
from flows.promotion.model_registry import Version
from imageset.utils.progress import SilentProgress
from lightning_modules.scoring import PyTorchEngine
from tests.helpers.models import make_untrained_bundle

MANY_SHARDS = {"MIN_SHARD_IMAGES": 4, "MEAN_SHARD_IMAGES": 8}  # from few pictures


def main() -> None:
    cut_into_many_shards()
    for group in " ".join(sys.argv[1:]).split(" -- "):
        folder, mode, *points = group.split()
        run_killed(Path(folder), mode == "new", [int(point) for point in points])


def cut_into_many_shards() -> None:
    """Let every later prediction of this process write many small shards."""
    for name, value in MANY_SHARDS.items():
        assert hasattr(cache, name), name
        setattr(cache, name, value)


def run_killed(folder: Path, new_only: bool, points: list[int]) -> None:
    """Predict in children of this process; PyTorch's threads, which no child of a fork has, never start in it."""

    def predict_until(point: int) -> None:
        die_at(point)
        predict(folder, new_only)

    _run_in_child(lambda: make_untrained_bundle(folder))
    for point in points:
        status = _run_in_child(lambda point=point: predict_until(point))
        print(point, "killed" if os.WIFSIGNALED(status) else "ended", flush=True)  # ended: fewer renames than that
    _run_in_child(lambda: print(predict(folder, new_only), flush=True))


def _run_in_child(function: Callable[[], object]) -> int:
    """Call a function in a child of this process; return the status that os.waitpid gives."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def predict(folder: Path, new_only: bool) -> str:
    """Run the part of `convoy predict` after the model is found."""
    bundle = make_untrained_bundle(folder)
    answers = Predictor(
        bundle, PyTorchEngine(bundle), Version("digits", 1, ""), {"batch_size": 8, "top_k": 3}, num_workers=1
    )
    parts, pictures = answers.open_cache(folder / "parts"), open_images(str(folder / "pictures"))
    with parts.cache_lock(on_busy=lambda: None):
        counts = predict_table(
            pictures, answers, parts, folder / "out.parquet", SilentProgress(), new_only=new_only
        )
    return f"{counts.num_rows} rows, {answers.num_cached} taken over"


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
