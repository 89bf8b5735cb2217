"""A network under observation: feature maps, gradients and costs of its layers."""

import copy

import numpy as np
import torch
from torch import Tensor

from imageset.exceptions import UserError
from lightning_modules.bundle import Bundle
from lightning_modules.calibration import temperature, thresholds
from lightning_modules.explain import activations
from lightning_modules.explain.activations import ActivationTrace
from lightning_modules.explain.attribution import (  # fmt: skip
    make_predict_proba,
)
from lightning_modules.networks.preprocessing import Normalize

MAX_MAXIMIZATION_PX = 96  # of the pictures that are made to excite a filter
IMAGES_PER_BATCH = 32  # pictures that go through the network together


class InstrumentedModel:
    """A bundle's network, ready to be looked into: on the CPU, in evaluation mode, nothing done in place."""

    def __init__(self, bundle: Bundle) -> None:
        self.info, self.spec = bundle.info, bundle.spec
        self.network = copy.deepcopy(bundle.network).cpu().eval().requires_grad_(False)
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self.normalize = Normalize(bundle.info.mean, bundle.info.std)
        self.multi_label = bundle.info.multi_label
        self.predict_proba = make_predict_proba(self.network, bundle.info.temperature, self.multi_label)

    def preprocess(self, images: np.ndarray) -> Tensor:
        """uint8 (N, H, W, C) -> what the network sees, float32 (N, C, H, W)."""
        x: Tensor = self.normalize(torch.from_numpy(np.require(images, requirements=("C", "W"))))
        return x.contiguous()

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), calibrated."""
        parts = [
            self.network(self.preprocess(images[i : i + IMAGES_PER_BATCH]))
            for i in range(0, len(images), IMAGES_PER_BATCH)
        ]
        logits = torch.cat(parts).float().numpy()
        return temperature.to_probabilities(logits, self.info.temperature, self.multi_label)

    def choose_targets(self, probabilities: np.ndarray) -> list[int]:
        """The classes that are asked about: the best one; of several labels those that are said, the surest first,
        and the likeliest where none is."""
        order = (-probabilities).argsort(kind="stable").tolist()
        if self.info.thresholds is None:
            return order[:1]
        said = thresholds.apply_thresholds(probabilities, self.info.thresholds)
        return [i for i in order if said[i]] or order[:1]

    def trace(self, image: np.ndarray) -> ActivationTrace:
        """What each layer makes of one picture, uint8 (H, W, C)."""
        return activations.trace_activations(self.network, self.preprocess(image[None]))

    def maximization_px(self) -> int:
        """The side of the pictures that are made to excite a filter: small, where the network takes small ones."""
        if self.spec.size <= MAX_MAXIMIZATION_PX:
            return self.spec.size
        try:
            activations.trace_activations(
                self.network, torch.zeros(1, len(self.info.mean), MAX_MAXIMIZATION_PX, MAX_MAXIMIZATION_PX)
            )
        except (UserError, RuntimeError, AssertionError):
            return self.spec.size
        return MAX_MAXIMIZATION_PX
