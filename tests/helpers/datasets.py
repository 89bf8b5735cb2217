from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from imageset.normalize.stage import normalize
from imageset.raw.ingestion import ingest_source
from imageset.store.reader import ImageStore

NORMALIZE_PARAMS: dict[str, Any] = {
    "size_px": 16,
    "channels": "auto",
    "fit": "crop",
    "interpolation": "bilinear",
    "max_pixels": 1_000_000,
    "max_reject_fraction": 0.05,
    "split": {"seed": 0, "val": 0.2, "test": 0.2},
}


def snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def flip_bit(path: Path, position: float = 0.5, *, keep_time: bool = False) -> None:
    """Flip a bit of a file, as a failing disk does; which one: its position in the file, from 0 to 1."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 4
    path.unlink()  # DVC and a dataset that was taken over may have links to it
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def drop_digests(folder: Path) -> None:
    """Let data/raw or data/normalized be as an earlier version wrote it, which knew no digests."""
    path = next(folder / name for name in ("dataset.json", "source.json") if (folder / name).exists())
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({key: manifest[key] for key in manifest if key not in ("digests", "sha256")}))


CIFAR_CLASSES = ("airplane", "automobile", "bird")


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """(N, 32, 32, 3) -> (N, 3072): red, green, blue."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)


CIFAR_KEYS = (
    b"data labels filenames batch_label label_names num_vis num_cases_per_batch fine_labels coarse_labels "
    b"fine_label_names coarse_label_names"
).split()


def dump_python_2_pickle(value: Any) -> bytes:
    """Protocol 2 as in the original files: keys are Python 2's texts, numpy's module is called as it was then."""
    data = pickle.dumps(value, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for key in CIFAR_KEYS:
        data = data.replace(b"X" + len(key).to_bytes(4, "little") + key, b"U" + bytes([len(key)]) + key)
    return data


def write_cifar10(folder: Path, pictures: tuple[np.ndarray, np.ndarray], form: str) -> Path:
    """Batches of 10: two for training, one for the test."""
    pixels, labels = to_planes(pictures[0]), pictures[1]
    folder.mkdir(parents=True)
    for start, name in zip((0, 10, 20), ("data_batch_1", "data_batch_2", "test_batch"), strict=True):
        some, theirs = pixels[start : start + 10], labels[start : start + 10]
        if form == "bin":
            records = np.concatenate([theirs[:, None].astype(np.uint8), some], 1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            content = {
                "batch_label": b"training batch 1 of 5", "labels": theirs.tolist(), "data": some,
                "filenames": [f"plane_s_{number:06d}.png".encode() for number in range(10)],
            }  # fmt: skip
            (folder / name).write_bytes(dump_python_2_pickle(content))
    if form == "bin":
        (folder / "batches.meta.txt").write_text("\n".join(CIFAR_CLASSES) + "\n\n")
    else:
        meta = {"num_cases_per_batch": 10, "label_names": list(CIFAR_CLASSES), "num_vis": 3072}
        (folder / "batches.meta").write_bytes(dump_python_2_pickle(meta))
    (folder / "readme.html").write_text("<html>")
    return folder


def write_cifar100(folder: Path, pictures: tuple[np.ndarray, np.ndarray], form: str) -> Path:
    """train and test, with coarse labels that are not to be taken."""
    pixels, labels = to_planes(pictures[0]), pictures[1]
    folder.mkdir(parents=True)
    for some, name in ((slice(0, 20), "train"), (slice(20, 30), "test")):
        if form == "bin":
            both = np.stack([np.zeros_like(labels[some]), labels[some]], 1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(np.concatenate([both, pixels[some]], 1).tobytes())
        else:
            content = {"fine_labels": labels[some].tolist(), "coarse_labels": [0] * 20, "data": pixels[some]}
            (folder / name).write_bytes(dump_python_2_pickle(content))
    if form == "bin":
        (folder / "fine_label_names.txt").write_text("\n".join(CIFAR_CLASSES) + "\n")
        (folder / "coarse_label_names.txt").write_text("vehicles\n")
    else:
        (folder / "meta").write_bytes(
            dump_python_2_pickle({"fine_label_names": list(CIFAR_CLASSES), "coarse_label_names": ["vehicles"]})
        )
    return folder


class PickledCommand:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def pack_folder(folder: Path, archive: Path, inside: str = "") -> Path:
    files = [
        (f"{inside}{file.relative_to(folder).as_posix()}", file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    return pack_members(archive, files)


def pack_members(archive: Path, files: list[tuple[str, bytes]]) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as target:
            for name, data in files:
                target.writestr(name, data)
        return archive
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


def make_store(folder: Path, source: Path, **params: Any) -> ImageStore:
    ingest_source(source, folder / "raw")
    normalize(folder / "raw", folder / "normalized", NORMALIZE_PARAMS | params, workers=1)
    return ImageStore.open(folder / "normalized")


def write_idx(path: Path, values: np.ndarray, zipped: bool = False) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    data = header + values.tobytes()
    path.write_bytes(gzip.compress(data) if zipped else data)
