"""A model trained on real pictures, and pictures that arrive afterwards: as before, blurred, of another camera, of
a class that the model does not know."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from flows.project.project import Project
from lightning_modules.bundle import BundleInfo, save_bundle
from lightning_modules.features.reference_sample import ImageSample
from tests.helpers.project import ROOT, copy_params, run_stage, set_params
from tests.helpers.real_data import DATASETS


def make_untrained_bundle(folder: Path):
    """A small network with weights drawn once."""
    import torch

    from lightning_modules.bundle import Bundle
    from lightning_modules.networks.factory import make_network

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


CIFAR = DATASETS / "cifar10.tar.gz"
NUM_TO_LEARN, NUM_TO_COME = 200, 620  # pictures of each class


@dataclass(frozen=True)
class MonitoredProject:
    """A project whose model serves, and what may arrive: files of the classes it knows, and of one it does not."""

    project: Path
    name: str
    known: list[bytes]
    unknown: list[bytes]


def make_monitored_project(folder: Path, empty_mlflow_db: Path) -> MonitoredProject:
    """Train a small network on all classes but the last, and let it serve."""
    from imageset.raw.ingestion import ingest_source
    from imageset.sources.factory import open_source

    to_learn, to_come = read_cifar10() if CIFAR.is_file() else encode_digits()
    *classes, unknown = sorted(to_come)
    for label in classes:
        (folder / "source" / label).mkdir(parents=True)
        for number, data in enumerate(to_learn[label]):
            (folder / "source" / label / f"{number:04d}.png").write_bytes(data)
    project = folder / "project"
    project.mkdir()
    copy_params(project)
    shutil.copy(ROOT / "dvc.yaml", project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    ingest_source(open_source(str(folder / "source")), project / "data" / "raw")
    set_params(project, train__trainer__max_epochs=3, normalize__size_px=32, normalize__split__val=0.25,
               normalize__split__test=0.05, train__model__network__init_args__filters=[16, 32, 32],
               train__abstain_below=0.2)  # fmt: skip
    for module, stage in (("imageset", "normalize"), ("lightning_modules", "fit")):
        code, output = run_stage(project, stage, module)
        assert code == 0, output
    serve_trained_model(project)
    known = [data for label in classes for data in to_come[label]]
    order = np.random.default_rng(0).permutation(len(known))
    return MonitoredProject(project, "source", [known[i] for i in order], to_come[unknown])


def read_cifar10() -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """CIFAR-10: (training pictures, test pictures) by class."""
    found: dict[str, dict[str, list[bytes]]] = {"train": {}, "test": {}}
    wanted = {"train": NUM_TO_LEARN, "test": NUM_TO_COME}
    left = sum(wanted.values()) * 10
    with tarfile.open(CIFAR) as source:
        for member in source:
            split, label = PurePosixPath(member.name).parts[-3:-1] if member.isfile() else ("", "")
            files = found.get(split, {}).setdefault(label, [])
            if split in wanted and len(files) < wanted[split]:
                files.append(source.extractfile(member).read())  # type: ignore[union-attr]
                left -= 1
            if not left:
                break
    return found["train"], found["test"]


def encode_digits() -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """scikit-learn's digits, half and half, where there are no others."""
    from imageset.html.png import encode_png
    from imageset.sources.benchmark_sets.digits import load_digit_images

    pixels, labels = load_digit_images()
    found: tuple[dict[str, list[bytes]], dict[str, list[bytes]]] = {}, {}
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        found[number % 2].setdefault(str(label), []).append(encode_png(image))
    return found


def serve_trained_model(project: Path) -> None:
    """Register the model in data/models/classifier as the champion."""
    from flows.promotion import alias_updates, ledger, model_registry

    client = model_registry.connect_registry(Project(project))
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    name = note["dataset"]["name"]
    version = model_registry.register_model(client, name, note["run_id"], note["model_uri"])
    entry = {"event": ledger.DECISION, "model": name, "version": version.number, "serves": True, "reason": "first"}
    with alias_updates.alias_lock(Project(project)):
        before = model_registry.read_aliases(client, name)
        after = {**({"previous": before["champion"]} if before else {}), "champion": version.number}
        alias_updates.update_aliases(client, Project(project), entry, before, lambda _: after)


# ---- what arrives ----------------------------------------------------------------------------------------------


def blur(data: bytes) -> bytes:
    return _edit(data, lambda picture: picture.filter(ImageFilter.GaussianBlur(1.2)))


def change_camera(data: bytes) -> bytes:
    """Darker, with less contrast, and warm."""

    def edit(picture: Image.Image) -> Image.Image:
        picture = ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(0.75)).enhance(0.8)
        if picture.mode != "RGB":
            return picture
        red, green, blue = picture.split()
        return Image.merge(
            "RGB", (red.point(lambda v: min(255, int(1.15 * v))), green, blue.point(lambda v: 0.8 * v))
        )

    return _edit(data, edit)


def _edit(data: bytes, edit) -> bytes:
    picture = edit(Image.open(io.BytesIO(data)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def make_reference_sample(num: int, seed: int, shift: float = 0.0, **changes) -> ImageSample:
    """Pictures of a made-up source, or of one that was moved."""
    draws = np.random.default_rng(seed)
    columns = {
        "features": draws.normal(shift, 1, (num, 16)).astype(np.float32),
        "classes": draws.integers(0, 3, num),
        "confidence": draws.uniform(0.3, 1, num).astype(np.float32),
        "brightness": draws.normal(0.5, 0.1, num).astype(np.float32),
        "contrast": draws.normal(0.2, 0.05, num).astype(np.float32),
        "short_side_px": draws.choice([480, 600, 720], num),
        "rejected": np.array([1, num]),
    }
    return ImageSample(**{**columns, **changes})
