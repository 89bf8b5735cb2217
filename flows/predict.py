"""Predict: the champion tags a folder of pictures, one row a picture, whatever becomes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows import console, registry
from flows.checks import check_prediction
from flows.project import NORMALIZED, find_project, stage_params
from flows.registry import Version
from flows.retries import RETRIED
from imageset.atomic import replacing
from imageset.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from lightning_modules.bundle import Bundle
    from lightning_modules.scoring import Scored

logger = console.get_logger(__name__)

ROWS_A_GROUP = 4096  # rows that are held in memory before they are written


@dataclass(frozen=True)
class Predicted:
    """What was written where, by which model."""

    out: Path
    version: Version
    num_rows: int
    num_errors: int

    def __str__(self) -> str:
        return f"{self.out}: {self.num_rows:,} rows by {self.version}, {self.num_errors:,} of them errors"


@dataclass(frozen=True)
class Picture:
    """One picture on its way through the network: who it is, and why it could not be read."""

    uri: str
    image_id: str | None
    error: str | None = None


@flow
def predict(source: str, out: str, model: str | None = None) -> Predicted:
    """Write one row for each picture below `source` into the Parquet file `out`.

    Args:
        source: folder of pictures, sub-folders included; it is only read.
        out: file to write, whole or not at all; its folder must exist.
        model: registered name; None for the one named like the dataset in data/normalized.

    Raises:
        UserError: no such folder, no picture in it, nowhere to write, or no model that serves.
    """
    project = find_project()
    num_pictures = check_prediction(source, out)
    version = find_model(model or dataset_name(project), project)
    return tag(source, out, version, num_pictures, project)


def dataset_name(project: Path) -> str:
    """The name of the dataset in data/normalized, which is the name of its model.

    Raises:
        UserError: there is no dataset, or it is broken.
    """
    path = project / NORMALIZED / "dataset.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["name"])
    except FileNotFoundError:
        raise UserError(
            f"{NORMALIZED}: no dataset here, so no model of that name; train one with `convoy run FOLDER`, "
            "or name a registered model with --model"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: broken ({error}); run `dvc repro -f normalize`, or use --model") from None


@task(**RETRIED)
def find_model(name: str, project: Path) -> Version:
    """The version of `name` that serves now; its number is pinned for the whole batch."""
    return registry.require_champion(registry.connect(project), name)


@task
def tag(source: str, out: str, version: Version, num_pictures: int, project: Path) -> Predicted:
    """Score the pictures as they are read and write the rows as they come."""
    from lightning_modules.bundle import load_bundle
    from lightning_modules.scoring import score

    params = stage_params(project, "predict")
    registry.connect(project)
    bundle = load_bundle(version.uri)
    again = ", again: the file is replaced" if Path(out).exists() else ""
    logger.info("predict: %s tags %s pictures%s", version, f"{num_pictures:,}", again)
    with console.progress("predict", logger) as progress:
        progress.begin(num_pictures)
        scored = score(bundle, read_pictures(Path(source)), batch_size=params["batch_size"], workers=None)
        rows = (row_of(one, bundle, version, params["top_k"]) for one in counted(scored, progress))
        num_rows, num_errors = write_rows(Path(out), rows)
    logger.info("predict: %s rows in %s, %s of them errors", f"{num_rows:,}", out, f"{num_errors:,}")
    return Predicted(Path(out), version, num_rows, num_errors)


def read_pictures(folder: Path) -> Iterator[tuple[Picture, bytes]]:
    """(picture, its bytes), in the order of their names. One that cannot be read goes on as no bytes at all,
    with the reason, so that its row stays where it belongs."""
    from imageset.quality import Rejected
    from imageset.sources import find_pictures

    for file in find_pictures(folder):
        try:
            data = file.read()
        except Rejected as rejected:
            yield Picture(file.uri, None, f"{rejected.reason}: {rejected.detail}"), b""
        except OSError as error:
            yield Picture(file.uri, None, f"unreadable: {error.strerror or error}"), b""
        else:
            yield Picture(file.uri, hashlib.sha256(data).hexdigest()), data


def row_of(scored: Scored[Picture], bundle: Bundle, version: Version, top_k: int) -> dict[str, Any]:
    """One row of the output; see `schema`."""
    picture = scored.key
    row: dict[str, Any] = {
        "uri": picture.uri, "image_id": picture.image_id, "label": None, "probability": None, "top_k": None,
        "model_name": version.name, "model_version": version.number,
        "dataset_fingerprint": bundle.info.dataset["fingerprint"],
        "status": "error", "error": picture.error or f"{scored.reason}: {scored.detail}",
    }  # fmt: skip
    if scored.probabilities is None:
        return row
    best = scored.probabilities.argsort(kind="stable")[::-1][:top_k]
    top = [{"label": bundle.info.classes[i], "probability": float(scored.probabilities[i])} for i in best]
    return {**row, **top[0], "top_k": top, "status": "ok", "error": None}


def schema() -> pa.Schema:
    """The columns of a prediction file."""
    import pyarrow as pa

    text, number = pa.string(), pa.float32()
    return pa.schema([
        ("uri", text),  # the picture's path below the folder
        ("image_id", text),  # SHA-256 of its bytes; null where they could not be read
        ("label", text),
        ("probability", number),
        ("top_k", pa.list_(pa.struct([("label", text), ("probability", number)]))),
        ("model_name", text),
        ("model_version", pa.int64()),
        ("dataset_fingerprint", text),
        ("status", text),  # ok | error
        ("error", text),  # reason code: detail
    ])  # fmt: skip


def write_rows(out: Path, rows: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Write rows to a Parquet file that appears whole or not at all; returns (rows, rows with an error)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, num_rows, num_errors = iter(rows), 0, 0
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema(), compression="zstd") as writer:
        while group := list(islice(rows, ROWS_A_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema()))
            num_rows += len(group)
            num_errors += sum(row["status"] == "error" for row in group)
    return num_rows, num_errors


def counted(items: Iterable[Any], progress: Any) -> Iterator[Any]:
    """The items, each told to the progress."""
    for item in items:
        progress.advance()
        yield item
