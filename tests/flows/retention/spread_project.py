"""A small project whose pictures are everywhere: in DVC's cache and remote, in MLflow, in reports and caches."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import save_file

from flows.prediction.cache import CacheShard, ImageRef, PredictionCache
from flows.project.project import Project
from flows.promotion import ledger
from flows.versioning import dvc_repo
from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.store.reader import ImageStore
from lightning_modules.bundle import save_bundle
from lightning_modules.features.reference_sample import ImageSample
from lightning_modules.tracking import model_logging, tags
from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
from tests.helpers.images import encode_image, write_digit_images
from tests.helpers.models import make_untrained_bundle
from tests.helpers.project import ROOT, copy_params, set_params

NAME = "digits-few"
WRITE_REPORT = """
import base64, pathlib, shutil
from imageset.store.reader import ImageStore
from tests.helpers.images import encode_image
store = ImageStore.open("data/normalized")
report = pathlib.Path("data/models/report")
(report / "sees").mkdir(parents=True, exist_ok=True)
pictures = [encode_image(store.open_shard(0)[row].squeeze(-1)) for row in range(len(store.index))]
text = "".join(f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>" for png in pictures)
(report / "what_the_network_sees.html").write_text(f"<html>{text}")
(report / "sees" / "one.png").write_bytes(pictures[0])
(report / "sees" / "shift.csv").write_text("distance_px\\n")
"""


@dataclass(frozen=True)
class SpreadProject:
    """A project, and where its parts are."""

    folder: Path
    source: Path
    remote: Path
    run_id: str

    @property
    def project(self) -> Project:
        return Project(self.folder)

    def find_file(self, split: str, number: int = 0) -> Path:
        """Return the file of a picture of a split."""
        index = pq.read_table(self.folder / "data/normalized/index.parquet").to_pylist()
        return self.source / [row["uri"] for row in index if row["split"] == split][number]


def hash_picture(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(folder: Path, *command: str) -> None:
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
    )


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=Test", "-c", "user.email=test@localhost", "commit", "-q", "-m", message)


def make_spread_project(top: Path, empty_mlflow_db: Path) -> SpreadProject:
    """Make the project in a folder; it takes a quarter of a minute."""
    folder, source, remote = top / "project", write_digit_images(top / "source", num_each=16), top / "remote"
    folder.mkdir()
    copy_params(folder, NAME)
    set_params(folder, normalize__size_px=32, normalize__near_duplicate_bits=None)
    (folder / ".gitignore").write_text(".cache/\nmlflow.db*\nmlartifacts/\n")
    (folder / "report.py").write_text(WRITE_REPORT)
    stages = {
        "normalize": {"cmd": f"{sys.executable} -m imageset normalize", "deps": ["data/raw"],
                      "params": ["normalize"], "outs": [{"data/normalized": {"persist": True}}]},
        "train": {"cmd": "echo trained", "deps": ["data/normalized"], "outs": [
            {"data/models/classifier": {"persist": True}}]},
        "explain": {"cmd": f"{sys.executable} report.py", "deps": ["data/normalized"],
                    "outs": ["data/models/report/sees", "data/models/report/what_the_network_sees.html"]},
    }  # fmt: skip
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in ("git init -q", f"{sys.executable} -m dvc init -q"):
        run(folder, *command.split())
    (folder / ".dvc/config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../remote\n"
    )
    ingest_source(source, folder / "data/raw", name=NAME)
    dvc_repo.add_raw(Project(folder), str(source), NAME)
    params = yaml.safe_load((folder / "params.yaml").read_text())["normalize"]
    normalize(
        folder / "data/raw", folder / "data/normalized", params, workers=1
    )  # `dvc repro` makes the same again
    store = ImageStore.open(folder / "data/normalized")
    write_bundle(folder, store)
    run(folder, sys.executable, "-m", "dvc", "repro", "-q")
    run(folder, sys.executable, "-m", "dvc", "push", "-q")
    commit(folder, "first")
    shutil.copy(empty_mlflow_db, folder / "mlflow.db")
    run_id = log_training(folder, store)
    write_caches(folder, store)
    return SpreadProject(folder, source, remote, run_id)


def write_bundle(folder: Path, store: ImageStore) -> None:
    """data/models/classifier, with a reference sample of the validation pictures."""
    bundle, target = make_untrained_bundle(folder.parent), folder / "data/models/classifier"
    target.mkdir(parents=True)
    ids = [bytes.fromhex(image_id) for image_id in store.split("val").image_ids]
    reference = ImageSample(
        np.zeros(len(ids), np.int64), np.ones(len(ids), np.float32), np.array([0, len(ids)]),
        image_id=np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 32),
    )  # fmt: skip
    save_bundle(target, bundle.info, bundle.network, reference)


def log_training(folder: Path, store: ImageStore) -> str:
    """An MLflow run with all that a training logs, as version 1, which serves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = connect_to_mlflow(folder)
    experiment = ensure_experiment(client, NAME, folder)
    found = {tags.DATASET_TAG: NAME, tags.FINGERPRINT_TAG: store.fingerprint}
    run_id = client.create_run(experiment, tags=found).info.run_id
    images = model_logging.list_training_images(store.split("train").rows)
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    pq.write_table(images, scratch / "pictures.parquet")
    client.log_artifact(run_id, str(scratch / "pictures.parquet"), "training")
    client.log_artifact(run_id, str(folder / "data/normalized/dataset.html"), tags.DATASET_FOLDER)
    client.log_artifact(run_id, str(folder / "data/models/report/what_the_network_sees.html"), "report")
    client.log_text(run_id, "epoch,loss\n", "report/history.csv")
    model = client.create_logged_model(experiment, "classifier", run_id)
    examples = [encode_image(image.squeeze(-1)) for image in model_logging.read_example_images(store)]
    logged = scratch / "model"
    shutil.copytree(folder / "data/models/classifier", logged / "artifacts/bundle")
    import base64

    texts = [[base64.encodebytes(png).decode()] for png in examples]
    (logged / "serving_input_example.json").write_text(json.dumps({"dataframe_split": {"data": texts}}))
    client.log_model_artifacts(model.model_id, str(logged))
    client.finalize_logged_model(model.model_id, "READY")
    client.set_tag(run_id, tags.MODEL_TAG, model.model_id)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, model.artifact_location, run_id, model_id=model.model_id)
    client.set_registered_model_alias(NAME, "champion", "1")
    client.set_terminated(run_id)
    decide(folder, 1, run_id, {}, {"champion": 1})
    return run_id


def decide(folder: Path, version: int, run_id: str, before: dict, after: dict, **more: str) -> None:
    entry = {"event": ledger.DECISION, "model": NAME, "version": version, "run": run_id, "serves": True,
             "reason": "better", "before": before, "after": after, **more}  # fmt: skip
    line = ledger.append_entry(Project(folder), entry)
    ledger.append_entry(Project(folder), {"event": ledger.DONE, "of": line["number"]})


def write_caches(folder: Path, store: ImageStore) -> None:
    """Answers, features, a review and a page of a drift check."""
    ids, uris = store.index["image_id"].to_pylist(), store.index["uri"].to_pylist()
    cache = PredictionCache(folder / f".cache/predictions/{NAME}-1-0a1b2c3d", "key")
    shard = CacheShard("ab" * 16, [ImageRef(uri, image_id) for uri, image_id in zip(uris, ids, strict=True)])
    shard.rows = [{"uri": uri, "image_id": image_id, "label": "1", "status": "ok"}
                  for uri, image_id in zip(uris, ids, strict=True)]  # fmt: skip
    cache.folder.mkdir(parents=True)
    cache.write_shard(shard)
    (cache.folder / "delivered.txt").write_text("ab" * 16 + "\n")
    features = folder / ".cache/features/net"
    features.mkdir(parents=True)
    raw = np.frombuffer(b"".join(map(bytes.fromhex, ids)), np.uint8).reshape(-1, 32)
    values = np.arange(len(ids), dtype=np.float16)[:, None]
    save_file({"image_id": raw, "plain": values, "mirrored": values}, features / "new.safetensors")
    data = (features / "new.safetensors").read_bytes()
    (features / "new.safetensors").rename(features / f"{hashlib.sha256(data).hexdigest()}.safetensors")
    review = folder / "data/predictions/p.review"
    (review / "data").mkdir(parents=True)
    lines = ["path,label,guess,probability,margin,uri,image_id,model"]
    for number, (image_id, uri) in enumerate(zip(ids, uris, strict=True)):
        shutil.copy(folder.parent / "source" / uri, review / f"data/{number}.png")
        lines.append(f"data/{number}.png,,1,0.5,0.1,{uri},{image_id},m")
    (review / "review.csv").write_text("\n".join(lines) + "\n")
    (review / "review.html").write_text("<html>")
    monitor = folder / "data/monitor"
    monitor.mkdir()
    for name, some in (("first", ids[:20]), ("rest", ids[20:])):
        (monitor / f"{name}.html").write_text("<html>")
        np.save(monitor / f"{name}.npy", np.sort(np.array([int(i[:16], 16) for i in some], np.uint64)))
