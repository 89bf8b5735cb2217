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
from lightning_modules.explain.attribution import make_predict_proba
from lightning_modules.networks.preprocessing import Normalize

MAX_MAXIMIZATION_PX = 96  # side of the images that are made to excite a filter
IMAGES_PER_BATCH = 8  # as fast as larger ones on a CPU, and with less memory


class InstrumentedModel:
    """A copy of a bundle's network to observe: on the CPU, in evaluation mode, without in-place operations.

    `network` sees the image only, so that its layers run once; `logits` are those of the bundle, for some networks
    the mean over the image and its mirror image.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.info, self.spec = bundle.info, bundle.spec
        self.network = copy.deepcopy(bundle.network).cpu().eval().requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU
        for module in self.network.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self.has_mirror = bool(getattr(self.network, "mirror", False))
        if self.has_mirror:
            self.network.mirror = False  # type: ignore[assignment]
        self.normalize = Normalize(bundle.info.mean, bundle.info.std)
        self.multi_label = bundle.info.multi_label
        self.predict_proba = make_predict_proba(self.logits, bundle.info.temperature, self.multi_label)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of the network's input (N, C, H, W)."""
        logits: Tensor = self.network(x)
        return (logits + self.network(x.flip(-1))) / 2 if self.has_mirror else logits

    def preprocess(self, images: np.ndarray) -> Tensor:
        """Return images uint8 (N, H, W, C) as the network's input, float32 (N, C, H, W), channels last."""
        x: Tensor = self.normalize(torch.from_numpy(np.require(images, requirements=("C", "W"))))
        return x

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities of images: uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        batches = [
            self.logits(self.preprocess(images[i : i + IMAGES_PER_BATCH]))
            for i in range(0, len(images), IMAGES_PER_BATCH)
        ]
        logits = torch.cat(batches).float().numpy()
        return temperature.to_probabilities(logits, self.info.temperature, self.multi_label)

    def choose_targets(self, probabilities: np.ndarray) -> list[int]:
        """Return the classes to attribute, for probabilities (num_classes,).

        That is the likeliest class. For a multi-label model it is every predicted label, the likeliest first, or
        the likeliest label if none is predicted.
        """
        order = (-probabilities).argsort(kind="stable").tolist()
        if self.info.thresholds is None:
            return order[:1]
        predicted = thresholds.apply_thresholds(probabilities, self.info.thresholds)
        return [i for i in order if predicted[i]] or order[:1]

    def trace(self, image: np.ndarray) -> ActivationTrace:
        """Record the output of each layer for one image, uint8 (H, W, C)."""
        return activations.trace_activations(self.network, self.preprocess(image[None]))

    @property
    def num_passes(self) -> int:
        """The number of passes through the network for one prediction."""
        return 2 if self.has_mirror else 1

    def maximization_px(self) -> int:
        """Return the side of images made to excite a filter: at most 96 px if the network accepts such images."""
        if self.spec.size <= MAX_MAXIMIZATION_PX:
            return self.spec.size
        try:
            activations.trace_activations(
                self.network, torch.zeros(1, len(self.info.mean), MAX_MAXIMIZATION_PX, MAX_MAXIMIZATION_PX)
            )
        except (UserError, RuntimeError, AssertionError):
            return self.spec.size
        return MAX_MAXIMIZATION_PX
