"""Score images with a bundle: the engine protocol, the PyTorch engine, and calibrated probabilities."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from imageset.executors.base import count_cpus
from imageset.store.reader import StoreSplit
from lightning_modules.bundle import Bundle
from lightning_modules.calibration import temperature
from lightning_modules.networks.preprocessing import Normalize

if TYPE_CHECKING:
    from imageset.store.reader import StoreSplit


CPU_BATCH_SIZE = 8  # images of a batch on a CPU


class Engine(Protocol):
    """A network that is ready to run.

    Attributes:
        name: "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16" or "int8".
        batch_size: images of a batch; None if larger batches are faster, as on a GPU.
        num_streams: batches that run at the same time.
    """

    name: str
    precision: str
    batch_size: int | None
    num_streams: int

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        ...

    def open_streams(self) -> Any:
        """Return a context manager for the ThreadPoolExecutor that runs the batches."""
        ...


class ModelWithPreprocessing(nn.Module):
    """A bundle's network with its normalization in front, from bytes to logits in one module.

    The network itself is wrapped, not changed.

    Args:
        bundle: the bundle whose network is wrapped.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.normalize = Normalize(bundle.info.mean, bundle.info.std)
        self.network = bundle.network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images, uint8 (N, H, W, C)."""
        logits: Tensor = self.network(self.normalize(images))
        return logits


class PyTorchEngine:
    """PyTorch, on a GPU if there is one, else on the CPU, in channels-last order.

    Args:
        bundle: the bundle to run.
        precision: "fp32" or "bf16".
    """

    name: str = "pytorch"

    def __init__(self, bundle: Bundle, precision: str = "fp32") -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision
        on_gpu = self.device.type == "cuda"
        self.batch_size: int | None = None if on_gpu else CPU_BATCH_SIZE
        self.num_streams = 1 if on_gpu else count_cpus()
        self.module = ModelWithPreprocessing(bundle).to(memory_format=torch.channels_last).to(self.device).eval()

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        pixels = torch.from_numpy(np.require(images, requirements="W")).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.module(pixels)
        return logits.float().cpu().numpy()

    @contextmanager
    def open_streams(self) -> Iterator[ThreadPoolExecutor]:
        """Yield a pool with a thread for each stream; on a CPU each stream gets one of PyTorch's threads."""
        if self.device.type == "cuda":
            with ThreadPoolExecutor(1) as executor:
                yield executor
            return
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(
                self.num_streams, initializer=torch.set_num_threads, initargs=(1,)
            ) as executor:
                yield executor
        finally:
            torch.set_num_threads(before)


K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ScoreResult(Generic[K]):
    """The result of one image.

    Attributes:
        key: identifies the image.
        probabilities: float32 (num_classes,); None if the image was rejected.
        reason: the rejection's code.
        detail: the rejection's explanation.
    """

    key: K
    probabilities: np.ndarray | None
    reason: str | None = None
    detail: str | None = None


class Scorer:
    """A bundle on an engine.

    Args:
        bundle: the bundle to score with.
        engine: runs the network; None for PyTorch on a GPU if there is one, else on the CPU.
    """

    def __init__(self, bundle: Bundle, engine: Engine | None = None) -> None:
        self.temperature, self.multi_label = bundle.info.temperature, bundle.info.multi_label
        self.engine = engine or PyTorchEngine(bundle)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        return temperature.to_probabilities(self.logits(images), self.temperature, self.multi_label)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (N, num_classes), of images, uint8 (N, H, W, C)."""
        return self.engine.logits(images)

    def split_logits(self, split: StoreSplit, batch_size: int) -> np.ndarray:
        """Return the logits of a whole split, float32 (n, num_classes), in its order."""
        starts = range(0, len(split), batch_size)
        rows = [self.logits(split.read_batch(np.arange(i, min(i + batch_size, len(split))))) for i in starts]
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)

    def score_padded(self, images: list[np.ndarray], batch_size: int) -> np.ndarray:
        """Return the calibrated probabilities of images, padded to a batch of `batch_size`.

        An engine may choose another algorithm for another shape; with a fixed shape an image's probabilities do
        not depend on the other images of its batch.

        Args:
            images: N arrays, uint8 (H, W, C).
            batch_size: at least N.

        Returns:
            float32 (N, num_classes).
        """
        batch = np.zeros((batch_size, *images[0].shape), np.uint8)
        batch[: len(images)] = images
        return self.probabilities(batch)[: len(images)]
