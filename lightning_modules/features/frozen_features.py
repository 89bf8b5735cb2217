"""Features of a frozen network, computed once for each image and kept in `.cache/features`.

The folder of a network's features is named by the weights, the preprocessing and the device. Each file in it holds
the features of some images and is named by the SHA-256 of its content, so a damaged file is found when it is read.
An interrupted computation continues behind the last file, and new images add files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor, nn

from imageset.store.reader import StoreSplit
from imageset.utils.atomic_write import write_bytes
from imageset.utils.progress import Progress
from lightning_modules.features.head_input import record_inputs, to_vectors
from lightning_modules.networks.factory import evaluation_mode
from lightning_modules.networks.pretrained import find_head

FILE_SUFFIX = ".safetensors"
FORMAT = 1  # part of a folder's name
CPU_BATCH_SIZE = 16
GPU_BATCH_SIZE = 256
IMAGES_PER_FILE = 256  # an interrupted computation loses fewer


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of images, and of their mirror images; both float32 (n, d)."""

    plain: np.ndarray
    mirrored: np.ndarray

    def __len__(self) -> int:
        return len(self.plain)

    @property
    def mean(self) -> np.ndarray:
        """The mean over an image and its mirror image, float32 (n, d)."""
        return (self.plain + self.mirrored) / 2

    @classmethod
    def concat(cls, parts: "Sequence[FrozenFeatures]") -> "FrozenFeatures":
        """Return the features of several sets of images, one after the other."""
        return cls(
            np.concatenate([part.plain for part in parts]), np.concatenate([part.mirrored for part in parts])
        )


class FeatureCache:
    """The features of one network, on the disk.

    Args:
        folder: `.cache/features` of the project.
        key: everything that the features depend on besides the image: weights, preprocessing, device.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps([FORMAT, key], sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def read(self) -> dict[bytes, tuple[np.ndarray, np.ndarray]]:
        """Return the features that are there: image_id (32 bytes) -> (plain, mirrored), float16 (d,) each.

        A damaged file is removed with a line, so that its features are computed again.
        """
        known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        for path in sorted(self.folder.glob(f"*{FILE_SUFFIX}")):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != path.stem:
                path.unlink()
                print(f"train: {path}: damaged and removed; its features are computed again", flush=True)
                continue
            arrays = load_safetensors(data)
            rows = zip(arrays["image_id"], arrays["plain"], arrays["mirrored"], strict=True)
            known |= {image_id.tobytes(): (plain, mirrored) for image_id, plain, mirrored in rows}
        return known

    def add(self, image_ids: Sequence[bytes], plain: np.ndarray, mirrored: np.ndarray) -> None:
        """Write the features, float16 (n, d), of n images to a new file."""
        ids = np.frombuffer(b"".join(image_ids), np.uint8).reshape(-1, 32)
        data = save_safetensors({"image_id": ids, "plain": plain, "mirrored": mirrored})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / f"{hashlib.sha256(data).hexdigest()}{FILE_SUFFIX}", data)


class FeatureNetwork(nn.Module):
    """A network without its head: uint8 (N, H, W, C) -> features (N, d), the input of the head.

    If the head is a convolution, its input is averaged over all positions.

    Args:
        normalize: converts uint8 images to normalized floats.
        network: the network; each layer keeps its mode.
        num_classes: number of logits, by which the head is found.
    """

    def __init__(self, normalize: nn.Module, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.normalize, self.network = normalize, network
        self.head = network.get_submodule(find_head(network, num_classes))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the features (N, d) of images, uint8 (N, H, W, C)."""
        with record_inputs(self.head) as inputs, evaluation_mode(self.network):
            self.network(self.normalize(images))
        return to_vectors(inputs[-1])


def compute_features(
    network: FeatureNetwork,
    splits: Sequence[StoreSplit],
    cache: FeatureCache,
    device: torch.device,
    progress: Progress,
) -> list[FrozenFeatures]:
    """Return the features of the images of some splits; those that the cache lacks are computed and added to it.

    An image's features do not depend on the other images: they are computed in batches of one size.

    Args:
        network: computes the features.
        splits: the images.
        cache: the features that were computed before.
        device: where to compute.
        progress: counts the images that are computed.
    """
    known = cache.read()
    ids = [[bytes.fromhex(image_id) for image_id in split.image_ids] for split in splits]
    missing = [
        (
            split,
            np.array([i for i, image_id in enumerate(split_ids) if image_id not in known], np.int64),
            split_ids,
        )
        for split, split_ids in zip(splits, ids, strict=True)
    ]
    progress.begin(total=sum(len(positions) for _, positions, _ in missing), step="features")
    for split, positions, split_ids in missing:
        for start in range(0, len(positions), IMAGES_PER_FILE):
            chosen = positions[start : start + IMAGES_PER_FILE]
            plain, mirrored = _compute_chunk(network, split, chosen, device, progress)
            chunk_ids = [split_ids[i] for i in chosen.tolist()]
            cache.add(chunk_ids, plain, mirrored)
            known |= {image_id: (plain[i], mirrored[i]) for i, image_id in enumerate(chunk_ids)}
    progress.end()
    return [_gather(known, split_ids) for split_ids in ids]


def _compute_chunk(
    network: FeatureNetwork, split: StoreSplit, positions: np.ndarray, device: torch.device, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    network.to(device)
    parts = []
    for images, count in _iter_padded(
        split, positions, CPU_BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE
    ):
        batch = torch.from_numpy(images).to(device)
        pair = torch.stack([network(batch), network(batch.flip(2))])[:, :count]  # (2, count, d)
        parts.append(pair.cpu().numpy().astype(np.float16))
        progress.advance(count)
    plain, mirrored = np.concatenate(parts, axis=1)
    return plain, mirrored


def _iter_padded(split: StoreSplit, positions: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield batches of one size, the last one padded, each with the number of its images."""
    for start in range(0, len(positions), batch_size):
        chosen = positions[start : start + batch_size]
        images = np.zeros((batch_size, *split.store.spec.shape), np.uint8)
        images[: len(chosen)] = split.read_batch(chosen)
        yield images, len(chosen)


def _gather(known: Mapping[bytes, tuple[np.ndarray, np.ndarray]], image_ids: Sequence[bytes]) -> FrozenFeatures:
    if not image_ids:
        return FrozenFeatures(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
    plain = np.stack([known[image_id][0] for image_id in image_ids]).astype(np.float32)
    mirrored = np.stack([known[image_id][1] for image_id in image_ids]).astype(np.float32)
    return FrozenFeatures(plain, mirrored)
