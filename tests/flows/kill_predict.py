"""`make kill`: a prediction is killed before and after each of its renames, and called again.

    python -m tests.flows.kill_predict

Whatever the moment, the table of the next run must be that of an undisturbed one, byte for byte.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from flows import parts
from tests.conftest import write_pictures
from tests.flows.killed_predict import MANY_PARTS, run


def main() -> int:
    for name, value in MANY_PARTS.items():
        setattr(parts, name, value)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pictures = write_pictures(work / "pictures", classes="01", num_each=25)
        expected = table(work / "once", pictures, [])
        num_renames = len(list((work / "once/parts").glob("*/*.parquet"))) + 3  # note, table, ledger
        points = [sign * place for place in range(1, num_renames + 1) for sign in (1, -1)]
        wrong = [point for point in points if table(work / "killed", pictures, [point]) != expected]
    print(f"{len(points)} kills, {len(wrong)} tables that differ{f': {wrong}' if wrong else ''}")
    return bool(wrong)


def table(folder: Path, pictures: Path, points: list[int]) -> bytes:
    """The table of a run in a fresh folder, after others that were killed at `points`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "pictures").symlink_to(pictures)
    run(folder, False, points)
    return (folder / "out.parquet").read_bytes()


if __name__ == "__main__":
    sys.exit(main())
