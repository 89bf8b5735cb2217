"""What was said of each batch of predictions, and which pictures have been judged.

data/monitor/batches.jsonl      one JSON line a batch, the oldest first
data/monitor/BATCH.npy          the pictures it holds: uint64, the first 8 bytes of each image_id, sorted
data/monitor/BATCH.html         the page about it

The line is written last: a batch without a line was never judged. A picture is judged once by a model version, so
an inbox that is predicted every hour is judged by what came in that hour.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.monitoring.retrain_policy import TOO_SMALL
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes, write_text

if TYPE_CHECKING:  # `convoy status` reads the table alone
    import numpy as np

MONITOR_DIR = Path("data/monitor")
BATCHES_FILE = MONITOR_DIR / "batches.jsonl"

BatchEntry = dict[str, Any]


@contextmanager
def batch_log_lock(project: Path) -> Iterator[None]:
    """Nobody else judges here meanwhile."""
    folder = project / MONITOR_DIR
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for leftover in folder.glob(".*.partial"):
            leftover.unlink()
        yield


def read_batches(project: Path, model: str | None = None, version: int | None = None) -> list[BatchEntry]:
    """All lines, or those of a model, or of one version of it.

    Raises:
        UserError: the table is damaged.
    """
    path = project / BATCHES_FILE
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if model in (None, line["model"]) and version in (None, line["version"])]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); move it away, and all batches are judged anew") from None


def record_batch(project: Path, line: BatchEntry, ids: np.ndarray) -> None:
    """Note a batch; one of the same id is replaced."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, ids)
    write_bytes(ids_path(project, line["batch"]), buffer.getvalue())
    lines = [one for one in read_batches(project) if one["batch"] != line["batch"]]
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in [*lines, line])
    write_text(project / BATCHES_FILE, text)


def read_judged_ids(project: Path, model: str, version: int) -> np.ndarray:
    """The pictures that a version's batches held, uint64, sorted; those of too small batches still wait."""
    import numpy as np

    found = [np.empty(0, np.uint64)]
    for line in read_batches(project, model, version):
        path = ids_path(project, line["batch"])
        if line["state"] != TOO_SMALL and path.exists():
            found.append(np.load(path, allow_pickle=False))
    return np.unique(np.concatenate(found))


def ids_path(project: Path, batch: str) -> Path:
    """Where the pictures of a batch are noted."""
    return project / MONITOR_DIR / f"{batch}.npy"


def to_short_id(image_id: str | None, uri: str) -> int:
    """Who a picture is, in 8 bytes; one that cannot be read is known by its name."""
    return int((image_id or hashlib.sha256(uri.encode()).hexdigest())[:16], 16)


def compute_batch_id(model: str, version: int, ids: np.ndarray) -> str:
    """Of the same pictures under the same version the same, whatever their order; ids is sorted."""
    import numpy as np

    digest = hashlib.sha256(json.dumps([model, version]).encode())
    digest.update(np.ascontiguousarray(ids, np.uint64).astype("<u8").tobytes())
    return digest.hexdigest()[:16]
