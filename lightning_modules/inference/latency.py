"""Latency of bundles, measured beside each other."""

import time
from collections.abc import Sequence

import numpy as np

from imageset.decoding.decoder import decode
from imageset.rejections import Rejected
from lightning_modules.bundle import Bundle
from lightning_modules.scoring import Scorer


def measure_latency_ms(bundles: Sequence[Bundle], images: Sequence[bytes], rounds: int = 5) -> list[float]:
    """Return the milliseconds that each bundle takes for an image, decoding included: the fastest of all rounds.

    The bundles take turns, so that other load on the machine affects all of them alike.

    Args:
        bundles: the bundles to measure.
        images: the bytes of image files; decoded in one thread.
        rounds: how often each bundle classifies all images, after a round that warms up the caches.
    """
    scorers = [Scorer(bundle) for bundle in bundles]
    fastest_s = [float("inf")] * len(bundles)
    for _ in range(rounds + 1):
        for number, (scorer, bundle) in enumerate(zip(scorers, bundles, strict=True)):
            begin = time.perf_counter()
            scorer.probabilities(np.stack([_decode_or_blank(data, bundle) for data in images]))
            fastest_s[number] = min(fastest_s[number], time.perf_counter() - begin)
    return [1000 * seconds / len(images) for seconds in fastest_s]


def _decode_or_blank(data: bytes, bundle: Bundle) -> np.ndarray:
    try:
        return decode(data, bundle.spec)
    except Rejected:
        return np.zeros(bundle.spec.shape, np.uint8)
