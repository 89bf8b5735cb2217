"""How long bundles take for a picture, measured beside each other."""

import time
from collections.abc import Sequence

import numpy as np

from imageset.decoding.decoder import decode
from imageset.rejections import Rejected
from lightning_modules.bundle import Bundle
from lightning_modules.scoring import Scorer


def measure_latency_ms(bundles: Sequence[Bundle], images: Sequence[bytes], rounds: int = 5) -> list[float]:
    """Milliseconds a picture for each bundle, decoded in one thread: the quickest of some rounds.

    They take turns, so that what else the machine does hits all alike.
    """
    scorers = [Scorer(bundle) for bundle in bundles]
    quickest = [float("inf")] * len(bundles)
    for _ in range(rounds + 1):  # one more: the first finds caches cold
        for number, (scorer, bundle) in enumerate(zip(scorers, bundles, strict=True)):
            begin = time.perf_counter()
            scorer.probabilities(np.stack([_decode_or_blank(data, bundle) for data in images]))
            quickest[number] = min(quickest[number], time.perf_counter() - begin)
    return [1000 * seconds / len(images) for seconds in quickest]


def _decode_or_blank(data: bytes, bundle: Bundle) -> np.ndarray:
    try:
        return decode(data, bundle.spec)
    except Rejected:
        return np.zeros(bundle.spec.shape, np.uint8)
