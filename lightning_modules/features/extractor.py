"""Extraction of features: the input of a network's last layer."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle
from lightning_modules.features.head_input import record_inputs, to_vectors
from lightning_modules.networks.pretrained import find_head
from lightning_modules.scoring import PyTorchEngine


class FeatureExtractor:
    """A bundle's network that returns features beside logits.

    If no layer of the network gives the logits, the features are the logits.

    Args:
        bundle: the bundle whose network is run.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.engine = PyTorchEngine(bundle)
        network = bundle.network
        try:
            self.head: nn.Module | None = network.get_submodule(find_head(network, len(bundle.info.classes)))
        except UserError:
            self.head = None

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return features, float32 (N, num_features), and logits (N, num_classes) of images, uint8 (N, H, W, C).

        If the last layer is a convolution, its input is averaged over all positions; if the network averages over
        the image and its mirror image, so are the features.
        """
        if self.head is None:
            logits = self.engine.logits(images)
            return logits, logits
        with record_inputs(self.head) as inputs:
            logits = self.engine.logits(images)
        vectors = torch.stack([to_vectors(head_input) for head_input in inputs]).mean(dim=0)
        return vectors.cpu().numpy(), logits


def embed(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """Return the features of images, uint8 (N, H, W, C), scaled to length 1: float32 (N, num_features)."""
    vectors, _ = FeatureExtractor(bundle)(images)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))
