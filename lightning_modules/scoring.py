"""Picture bytes in, probabilities out; decoding runs beside the network."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch

from imageset.decode import Rejected
from imageset.pool import decode_stream
from imageset.store import StoreSplit
from lightning_modules import calibration
from lightning_modules.bundle import Bundle
from lightning_modules.classifier import Normalize

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Scored(Generic[K]):
    """What became of one picture: probabilities float32 (num_classes,), or why there are none."""

    key: K
    probabilities: np.ndarray | None
    reason: str | None = None
    detail: str | None = None


class Scorer:
    """A bundle on the device it runs on: a GPU if there is one, else the CPU."""

    def __init__(self, bundle: Bundle) -> None:
        self.temperature = bundle.info.temperature
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.normalize = Normalize(bundle.info.mean, bundle.info.std).to(self.device)
        self.network = bundle.network.to(memory_format=torch.channels_last).to(self.device).eval()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), calibrated."""
        return calibration.probabilities(self.logits(images), self.temperature, multi_label=False)

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes), as the network gives them."""
        x = self.normalize(torch.from_numpy(np.require(images, requirements="W")).to(self.device))
        logits: np.ndarray = self.network(x).float().cpu().numpy()
        return logits

    def split_logits(self, split: StoreSplit, batch_size: int) -> np.ndarray:
        """The logits of a whole split, float32 (n, num_classes), in its order."""
        starts = range(0, len(split), batch_size)
        rows = [self.logits(split.batch(np.arange(i, min(i + batch_size, len(split))))) for i in starts]
        return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


def score(
    bundle: Bundle,
    items: Iterable[tuple[K, bytes]],
    *,
    batch_size: int,
    workers: int | None,
    timeout_s: float = 60.0,
) -> Iterator[Scored[K]]:
    """Decode and classify pictures; one result for each, in the order they came.

    Args:
        items: (key, file bytes); read as needed, never all at once.
        batch_size: pictures that go through the network together.
        workers: processes that decode; None: one a processor.
        timeout_s: a picture that takes longer to decode is given up.
    """
    scorer = Scorer(bundle)
    decoded = iter(decode_stream(items, bundle.spec, workers=workers, timeout_s=timeout_s))
    while batch := list(islice(decoded, batch_size)):
        images = [image for _, image in batch if not isinstance(image, Rejected)]
        rows = iter(scorer.probabilities(np.stack(images)) if images else ())
        for key, image in batch:
            if isinstance(image, Rejected):
                yield Scored(key, None, image.reason, image.detail)
            else:
                yield Scored(key, next(rows))
