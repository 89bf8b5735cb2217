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

from tests.conftest import ROOT
from tests.imageset.real import DATASETS
from tests.lightning_modules.conftest import run_stage, set_params

CIFAR = DATASETS / "cifar10.tar.gz"
TO_LEARN, TO_COME = 200, 620  # pictures of each class


@dataclass(frozen=True)
class Watched:
    """A project whose model serves, and what may arrive: files of the classes it knows, and of one it does not."""

    project: Path
    name: str
    known: list[bytes]
    unknown: list[bytes]


def make_watched(folder: Path, empty_mlflow_db: Path) -> Watched:
    """Train a small network on all classes but the last, and let it serve."""
    from imageset.raw import ingest
    from imageset.sources import open_source

    to_learn, to_come = cifar() if CIFAR.is_file() else digits()
    *classes, unknown = sorted(to_come)
    for label in classes:
        (folder / "source" / label).mkdir(parents=True)
        for number, data in enumerate(to_learn[label]):
            (folder / "source" / label / f"{number:04d}.png").write_bytes(data)
    project = folder / "project"
    project.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, project)
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    ingest(open_source(str(folder / "source")), project / "data" / "raw")
    set_params(project, train__trainer__max_epochs=3, normalize__size_px=32, normalize__split__val=0.25,
               normalize__split__test=0.05, train__model__network__init_args__filters=[16, 32, 32],
               train__abstain_below=0.2)  # fmt: skip
    for module, stage in (("imageset", "normalize"), ("lightning_modules", "fit")):
        code, output = run_stage(project, stage, module)
        assert code == 0, output
    serve(project)
    known = [data for label in classes for data in to_come[label]]
    order = np.random.default_rng(0).permutation(len(known))
    return Watched(project, "source", [known[i] for i in order], to_come[unknown])


def cifar() -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """CIFAR-10: (training pictures, test pictures) by class."""
    found: dict[str, dict[str, list[bytes]]] = {"train": {}, "test": {}}
    wanted = {"train": TO_LEARN, "test": TO_COME}
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


def digits() -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """scikit-learn's digits, half and half, where there are no others."""
    from imageset.digits import digit_pictures
    from imageset.png import encode_png

    pixels, labels = digit_pictures()
    found: tuple[dict[str, list[bytes]], dict[str, list[bytes]]] = {}, {}
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        found[number % 2].setdefault(str(label), []).append(encode_png(image))
    return found


def serve(project: Path) -> None:
    """Register the model in data/models/classifier as the champion."""
    from flows import ledger, moves, registry

    client = registry.connect(project)
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    name = note["dataset"]["name"]
    version = registry.register(client, name, note["run_id"], note["model_uri"])
    entry = {"event": ledger.DECISION, "model": name, "version": version.number, "serves": True, "reason": "first"}
    with moves.only_mover(project):
        before = registry.aliases(client, name)
        after = {**({"previous": before["champion"]} if before else {}), "champion": version.number}
        moves.move(client, project, entry, before, lambda _: after)


# ---- what arrives ----------------------------------------------------------------------------------------------


def blurred(data: bytes) -> bytes:
    return _edited(data, lambda picture: picture.filter(ImageFilter.GaussianBlur(1.2)))


def other_camera(data: bytes) -> bytes:
    """Darker, with less contrast, and warm."""

    def edit(picture: Image.Image) -> Image.Image:
        picture = ImageEnhance.Contrast(ImageEnhance.Brightness(picture).enhance(0.75)).enhance(0.8)
        if picture.mode != "RGB":
            return picture
        red, green, blue = picture.split()
        return Image.merge(
            "RGB", (red.point(lambda v: min(255, int(1.15 * v))), green, blue.point(lambda v: 0.8 * v))
        )

    return _edited(data, edit)


def _edited(data: bytes, edit) -> bytes:
    picture = edit(Image.open(io.BytesIO(data)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
