"""Extract the input of a network's last layer: the features of an image."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle
from lightning_modules.networks.pretrained import find_head
from lightning_modules.scoring import PyTorchEngine


class FeatureExtractor:
    """A bundle's network, and what its last layer sees; without a layer that gives the logits, the logits."""

    def __init__(self, bundle: Bundle) -> None:
        self.engine = PyTorchEngine(bundle)
        network = bundle.network
        try:
            self.head: nn.Module | None = network.get_submodule(find_head(network, len(bundle.info.classes)))
        except UserError:
            self.head = None

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, C) -> float32 (N, features) and logits (N, num_classes).

        Where the last layer is a convolution, its input is averaged over all places.
        """
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) if self.head else None
        try:
            logits = self.engine.logits(images)
        finally:
            if hook is not None:
                hook.remove()
        if not seen:
            return logits, logits
        vectors = seen[-1].float()
        vectors = vectors.mean(dim=(2, 3)) if vectors.ndim == 4 else vectors.flatten(1)
        return vectors.cpu().numpy(), logits


def embed(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """What the network's last layer sees, each of length 1: uint8 (N, H, W, C) -> float32 (N, features)."""
    vectors, _ = FeatureExtractor(bundle)(images)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
