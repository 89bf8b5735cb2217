"""`make kill`: a prediction is killed before and after each of its renames, and called again.

    python -m tests.scenarios.kill_predict

Whatever the moment, the table of the next run must be that of an undisturbed one, byte for byte.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from tests.helpers.images import write_digit_images
from tests.helpers.killed_prediction import cut_into_many_shards, run_killed


def main() -> int:
    cut_into_many_shards()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures = write_digit_images(work / "pictures", classes="01", num_each=25)
        expected = predict_table_bytes(work / "once", pictures, [])
        num_renames = len(list((work / "once/parts").glob("*/*.parquet"))) + 3  # note, table, ledger
        points = [sign * place for place in range(1, num_renames + 1) for sign in (1, -1)]
        wrong = [point for point in points if predict_table_bytes(work / "killed", pictures, [point]) != expected]
    print(f"{len(points)} kills, {len(wrong)} tables that differ{f': {wrong}' if wrong else ''}")
    return bool(wrong)


def predict_table_bytes(folder: Path, pictures: Path, points: list[int]) -> bytes:
    """The table of a run in a fresh folder, after others that were killed at `points`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "pictures").symlink_to(pictures)
    run_killed(folder, False, points)
    return (folder / "out.parquet").read_bytes()


if __name__ == "__main__":
    sys.exit(main())
