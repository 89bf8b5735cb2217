"""Selection of the images most worth a label: the model is unsure of them, and they represent its other doubts.

The images with the smallest margins form a pool. From it images are selected in turn, each the one that adds most
to the facility-location function sum_i w_i max_j s(i, j): i runs over the pool, j over the selected images; s is
the similarity of two images in the space of the features that the network's last layer receives, and the weight
w_i is the uncertainty of image i. An image alone among odd ones represents only itself, and of many that are
alike one represents the others, so neither outliers nor repetitions are preferred. Nothing is drawn at random.
`benchmarks.active_learning` compares this selection with others.

Sources: K. Wei, R. Iyer, J. Bilmes, "Submodularity in Data Subset Selection and Active Learning", 2015 (a pool of
the least confident, then facility location); F. Zhdanov, "Diverse mini-batch Active Learning", 2019,
arXiv:1901.05954 (a pool of 10 images for each to select, weights by the margin); M. Minoux, "Accelerated greedy
algorithms for maximizing submodular set functions", 1978 (lazy evaluation).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import compress, zip_longest

import numpy as np

from imageset.splits.near_duplicates import are_alike, group_near_duplicates

# Images in the pool for each image to select. With 4, every image selected is among the very least sure, but the
# simulation needs more labels.
POOL_FACTOR = 10
CERTAIN_MARGIN = 0.99  # from here on the model counts as certain; labels of such images teach it little
MAX_PART = 2_000  # images whose similarities to each other are in memory at once


def select_images(vectors: np.ndarray, margins: Sequence[float] | np.ndarray, num: int) -> list[int]:
    """Return the positions of the images to label, the most useful first.

    Images of which the model is certain follow only when all others are selected.

    Args:
        vectors: float (n, d), features of the pool.
        margins: of the pool, see `flows.prediction.uncertainty.compute_margin`.
        num: number of images; all of them if there are fewer.
    """
    values = np.asarray(margins, np.float64)
    unsure, certain = np.flatnonzero(values < CERTAIN_MARGIN), np.flatnonzero(values >= CERTAIN_MARGIN)
    selected: list[int] = []
    for positions in (unsure, certain):
        weights = np.clip(1 - values[positions], 0, 1)
        chosen = select_representatives(vectors[positions], weights, num - len(selected))
        selected += positions[chosen].tolist()
    return selected


def select_representatives(vectors: np.ndarray, weights: np.ndarray, num: int) -> list[int]:
    """Return the positions of `num` images that maximize the weighted facility-location function greedily.

    Of images that add the same the first is selected. A large pool is dealt out to parts, which select in turn
    (B. Mirzasoleiman et al., "Distributed Submodular Maximization", 2013), so that memory stays bounded.

    Args:
        vectors: float (n, d); their similarity is the cosine of their angle, moved from -1..1 to 0..1. A vector
            that is not finite, or zero, is as similar to all others as a perpendicular one.
        weights: float (n,), not negative.
        num: number of images; all of them if there are fewer.
    """
    points, num = _scale_to_unit(vectors), min(num, len(vectors))
    num_parts = max(1, -(-len(points) // MAX_PART))
    parts = [np.arange(first, len(points), num_parts) for first in range(num_parts)]
    chosen = [
        part[_maximize_coverage(points[part], weights[part], len(range(number, num, num_parts)))].tolist()
        for number, part in enumerate(parts)
    ]
    return [position for turn in zip_longest(*chosen) for position in turn if position is not None]


def _maximize_coverage(points: np.ndarray, weights: np.ndarray, num: int) -> list[int]:
    similarity = (1 + points @ points.T) / 2
    covered = np.zeros(len(points))  # similarity of each image to the selected one that is most similar
    # Gains only shrink as images are selected, so a gain that was computed earlier is an upper bound.
    waiting = [(-gain, position) for position, gain in enumerate((similarity @ weights).tolist())]
    heapq.heapify(waiting)
    selected: list[int] = []
    while waiting and len(selected) < num:
        _, position = heapq.heappop(waiting)
        gain = float(weights @ np.maximum(similarity[position] - covered, 0))
        if waiting and (-gain, position) > waiting[0]:
            heapq.heappush(waiting, (-gain, position))
            continue
        selected.append(position)
        covered = np.maximum(covered, similarity[position])
    return selected


def find_distinct(phashes: np.ndarray, pixels: np.ndarray, max_bits: int | None) -> list[int]:
    """Return the positions of the images that are no near duplicate of an earlier one.

    Args:
        phashes: uint64 (n,), see `imageset.decoding.phash`.
        pixels: uint8 (n, H, W, C), by which near duplicates are confirmed.
        max_bits: the hashes of near duplicates differ in at most so many bits; None: all images are distinct.
    """
    positions = np.arange(len(phashes))
    if max_bits is None:
        return positions.tolist()
    leaders = group_near_duplicates(phashes, max_bits, lambda a, b: are_alike(pixels[a], pixels[b]))
    return list(compress(positions.tolist(), leaders == positions))


def _scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with length 1, float64 (n, d); zeros in place of those that are not finite."""
    points = np.asarray(vectors, np.float64)
    points = np.where(np.isfinite(points).all(axis=1, keepdims=True), points, 0)
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12))
