"""Picture bytes in, probabilities out; decoding runs beside the network."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch

from imageset.decode import Rejected
from imageset.pool import decode_stream
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
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.normalize = Normalize(bundle.info.mean, bundle.info.std).to(self.device)
        self.network = bundle.network.to(memory_format=torch.channels_last).to(self.device).eval()

    @torch.inference_mode()
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, C) -> float32 (N, num_classes)."""
        x = self.normalize(torch.from_numpy(np.require(images, requirements="W")).to(self.device))
        return torch.softmax(self.network(x).float(), dim=1).cpu().numpy()


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
