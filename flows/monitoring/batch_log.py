"""The log of judged batches: the result of each, and the images that it holds.

data/monitor/batches.jsonl      one JSON line per batch, the oldest first
data/monitor/BATCH.npy          its images: uint64 (N,), the first 8 bytes of each image_id, sorted
data/monitor/BATCH.html         its page

The line is written last: a batch without a line was never judged. Each image is judged once per model version, so
an inbox that is predicted every hour is judged by the images of that hour.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.monitoring.retrain_policy import TOO_SMALL
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.utils.atomic_write import write_bytes, write_text
from imageset.utils.file_lock import file_lock
from imageset.utils.text import format_count

if TYPE_CHECKING:  # `convoy status` reads only the entries and starts faster without NumPy
    import numpy as np

MONITOR_DIR = Path("data/monitor")
BATCHES_FILE = MONITOR_DIR / "batches.jsonl"

BatchEntry = dict[str, Any]


@contextmanager
def batch_log_lock(project: Project) -> Iterator[None]:
    """Hold an exclusive lock on the log; wait while another process holds it."""
    folder = project / MONITOR_DIR
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock"):
        for leftover in folder.glob(".*.partial"):
            leftover.unlink()
        yield


def read_batches(project: Project, model: str | None = None, version: int | None = None) -> list[BatchEntry]:
    """Return all entries, or those of a model, or of one version of it.

    Raises:
        UserError: the log is damaged.
    """
    path = project / BATCHES_FILE
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            entry for entry in entries if model in (None, entry["model"]) and version in (None, entry["version"])
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); move it away, and all batches are judged anew") from None


def record_batch(project: Project, entry: BatchEntry, ids: np.ndarray) -> None:
    """Write the images of a batch, then its entry; an entry of the same batch is replaced."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, ids)
    write_bytes(ids_path(project, entry["batch"]), buffer.getvalue())
    kept = [earlier for earlier in read_batches(project) if earlier["batch"] != entry["batch"]]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*kept, entry])
    write_text(project / BATCHES_FILE, text)


def describe_waiting(entry: BatchEntry) -> str:
    """Return why a batch is not judged: too few pictures, or too few scenes."""
    if entry["num_pictures"] < entry["min_pictures"]:
        too_few = format_count(entry["num_pictures"], "picture is", "pictures are")
        return f"{too_few} too few to judge, {entry['min_pictures']} are needed (monitor.min_pictures)"
    scenes, pictures = format_count(entry["num_groups"], "scene"), format_count(entry["num_compared"], "picture")
    return (
        f"{scenes} of {pictures}: at least {entry['min_groups']} scenes are needed to tell drift from another "
        "scene; the pictures wait for more (params.yaml: monitor.group says what a scene is)"
    )


def read_judged_ids(project: Project, model: str, version: int) -> np.ndarray:
    """Return the short ids of all images that a version has judged: uint64 (N,), sorted.

    Batches that are too small are not judged; their images come back with the next batch.
    """
    import numpy as np

    ids = [np.empty(0, np.uint64)]
    for entry in read_batches(project, model, version):
        path = ids_path(project, entry["batch"])
        if entry["state"] != TOO_SMALL and path.exists():
            ids.append(np.load(path, allow_pickle=False))
    return np.unique(np.concatenate(ids))


def ids_path(project: Project, batch: str) -> Path:
    """Return the path of the file that holds the images of a batch."""
    return project / MONITOR_DIR / f"{batch}.npy"


def to_short_id(image_id: str | None, uri: str) -> int:
    """Return the first 8 bytes of an image_id; of an unreadable image, the first 8 of a hash of its uri."""
    return int((image_id or hashlib.sha256(uri.encode()).hexdigest())[:16], 16)


def compute_batch_id(model: str, version: int, ids: np.ndarray) -> str:
    """Return the id of a batch: a hash of the model version and of its images, `ids`, which are sorted."""
    import numpy as np

    digest = hashlib.sha256(json.dumps([model, version]).encode())
    digest.update(np.ascontiguousarray(ids, np.uint64).astype("<u8").tobytes())
    return digest.hexdigest()[:16]
