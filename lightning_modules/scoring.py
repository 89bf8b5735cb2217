"""Score images with a bundle: engines, and calibrated probabilities."""

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


CPU_BATCH_SIZE = 8  # pictures of a batch on a CPU


class Engine(Protocol):
    """A network ready to run.

    Attributes:
        name: "pytorch", "onnxruntime" or "openvino".
        precision: "fp32", "bf16" or "int8".
        batch_size: pictures of a batch; None where more is faster, as on a GPU.
        num_streams: batches that run at the same time.
    """

    name: str
    precision: str
    batch_size: int | None
    num_streams: int

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        ...

    def open_streams(self) -> Any:
        """A context with the ThreadPoolExecutor in which batches are to run."""
        ...


class ModelWithPreprocessing(nn.Module):
    """Bytes to logits in one module, so that the normalization travels with the network.

    The bundle's network is not changed, only wrapped.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.normalize = Normalize(bundle.info.mean, bundle.info.std)
        self.network = bundle.network

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> (N, num_classes)."""
        logits: Tensor = self.network(self.normalize(images))
        return logits


class PyTorchEngine:
    """PyTorch, on a GPU if there is one, else the CPU, in channels-last order."""

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
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        pixels = torch.from_numpy(np.require(images, requirements="W")).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = self.module(pixels)
        return logits.float().cpu().numpy()

    @contextmanager
    def open_streams(self) -> Iterator[ThreadPoolExecutor]:
        """On a CPU one thread for each stream, and each stream one thread of PyTorch's."""
        if self.device.type == "cuda":
            with ThreadPoolExecutor(1) as pool:
                yield pool
            return
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.num_streams, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(before)


K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ScoreResult(Generic[K]):
    """What became of one picture: probabilities float32 (num_classes,), or why there are none."""

    key: K
    probabilities: np.ndarray | None
    reason: str | None = None
    detail: str | None = None


class Scorer:
    """A bundle on the engine that runs it; without one named, PyTorch on a GPU if there is one, else the CPU."""

    def __init__(self, bundle: Bundle, engine: Engine | None = None) -> None:
        self.temperature, self.multi_label = bundle.info.temperature, bundle.info.multi_label
        self.engine = engine or PyTorchEngine(bundle)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), calibrated."""
        return temperature.to_probabilities(self.logits(images), self.temperature, self.multi_label)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), as the network gives them."""
        return self.engine.logits(images)

    def split_logits(self, split: StoreSplit, batch_size: int) -> np.ndarray:
        """The logits of a whole split, float32 (n, num_classes), in its order."""
        starts = range(0, len(split), batch_size)
        rows = [self.logits(split.read_batch(np.arange(i, min(i + batch_size, len(split))))) for i in starts]
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)

    def score_padded(self, images: list[np.ndarray], batch_size: int) -> np.ndarray:
        """The same for N pictures of (H, W, C), run as a batch of `batch_size` whatever N is: an engine may choose
        another algorithm for another shape, and a picture's answer must not depend on its company."""
        batch = np.zeros((batch_size, *images[0].shape), np.uint8)
        batch[: len(images)] = images
        return self.probabilities(batch)[: len(images)]
