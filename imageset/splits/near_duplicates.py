"""Near duplicates: images that look alike, found in the whole dataset without comparing every pair.

Two hashes that differ in at most k of 64 bits agree in at least one of their k + 1 bands (pigeonhole principle),
so only images that share a band are compared. The pixels must confirm the pairs that the hashes suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

# Of the normalized pixels. A recompressed or rescaled copy is far above, a different image of a series below.
MIN_CORRELATION = 0.98
# Limits of the work that a million near-black images cause. If more than MAX_BAND_SIZE hashes share a band, each
# is compared only with the NUM_NEIGHBOURS that follow in the order of their bits; an image whose pixels differ
# from those of MAX_UNLIKE candidates is not compared any more.
MAX_BAND_SIZE, NUM_NEIGHBOURS, MAX_UNLIKE = 2_000, 64, 64
_PAIRS_AT_ONCE = 1 << 18
_CONFIRMED_AT_ONCE = 256


def group_near_duplicates(
    phashes: np.ndarray,
    max_bits: int,
    confirm: Callable[[np.ndarray, np.ndarray], np.ndarray],
    leaders: np.ndarray | None = None,
) -> np.ndarray:
    """Group near duplicates by their perceptual hashes.

    Args:
        phashes: uint64 (N,).
        max_bits: the hashes of near duplicates differ in at most so many bits.
        confirm: called with two arrays of image numbers, the candidate pairs; returns a bool for each pair.
        leaders: int32 (N,), an earlier result; images that it groups stay grouped.

    Returns:
        int32 (N,): for each image the number of the first image of its group, its own if it is ungrouped.
    """
    parents = np.arange(len(phashes), dtype=np.int32) if leaders is None else leaders.astype(np.int32)
    if not len(phashes):
        return parents
    num_unlike = np.zeros(len(phashes), np.uint16)  # a batch adds at most 256 to a value below MAX_UNLIKE

    def drop_settled(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        separate = _find_roots(parents, left) != _find_roots(parents, right)
        undecided = separate & (num_unlike[left] < MAX_UNLIKE) & (num_unlike[right] < MAX_UNLIKE)
        return left[undecided], right[undecided]

    for pairs in _iter_candidate_pairs(phashes, max_bits):
        left, right = drop_settled(*pairs)
        for start in range(0, len(left), _CONFIRMED_AT_ONCE):
            batch = slice(start, start + _CONFIRMED_AT_ONCE)
            a, b = drop_settled(left[batch], right[batch])
            if len(a):
                confirmed = confirm(a, b)
                _join_pairs(parents, a[confirmed], b[confirmed])
                for unlike in (a[~confirmed], b[~confirmed]):
                    np.add.at(num_unlike, unlike, 1)
    return _find_roots(parents, np.arange(len(phashes), dtype=np.int32))


def _iter_candidate_pairs(phashes: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of numbers of images whose hashes differ in at most max_bits bits, as two arrays."""
    unique, first, first_same = _find_distinct(phashes)
    repeated = np.flatnonzero(first_same != np.arange(len(phashes), dtype=np.int32)).astype(np.int32)
    yield first_same[repeated], repeated
    del first_same, repeated
    edges = np.linspace(0, 64, max_bits + 2).astype(int)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = unique << np.uint64(64 - high)
        band |= unique >> np.uint64(high % 64)  # rotated, so that the bits of the band come first
        order = np.argsort(band).astype(np.int32)
        band = band[order]
        band >>= np.uint64(64 - (high - low))
        for left, right in _iter_equal_pairs(band):
            left, right = order[left], order[right]
            close = np.bitwise_count(unique[left] ^ unique[right]) <= max_bits
            yield first[left[close]], first[right[close]]


def _find_distinct(phashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the distinct hashes.

    Returns:
        (the distinct hashes, sorted; the first image with each; for each image the first image with its hash).
    """
    order = np.argsort(phashes, kind="stable").astype(np.int32)
    values = phashes[order]
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    first = order[new]
    first_same = np.empty(len(values), np.int32)
    first_same[order] = first[np.cumsum(new, dtype=np.int32) - 1]
    return values[new], first, first_same


def _iter_equal_pairs(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of positions of equal values in sorted values, as two arrays that fit into memory."""
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    starts = np.flatnonzero(new).astype(np.int32)
    ends = np.append(starts[1:], np.int32(len(values)))
    num_partners = np.repeat(ends, ends - starts)  # equal values that follow each position
    num_partners -= np.arange(1, len(values) + 1, dtype=np.int32)
    crowded = np.repeat(ends - starts > MAX_BAND_SIZE, ends - starts)
    num_partners[crowded] = np.minimum(num_partners[crowded], NUM_NEIGHBOURS)
    del new, starts, ends, crowded
    begin = 0
    total = np.cumsum(num_partners, dtype=np.int64)
    while begin < len(values):
        base = total[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(total, base + _PAIRS_AT_ONCE, side="right")))
        counts = num_partners[begin:stop]
        left = np.repeat(np.arange(begin, stop), counts)
        within = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield left, left + 1 + within
        begin = stop


def _find_roots(parents: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    roots = parents[numbers]
    while True:
        grandparents = parents[roots]
        if (grandparents == roots).all():
            return roots
        roots = grandparents


def _join_pairs(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Merge the groups of each pair; the root of a group is its smallest number."""
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        root_a, root_b = _find_root(parents, a), _find_root(parents, b)
        if root_a != root_b:
            parents[max(root_a, root_b)] = min(root_a, root_b)


def _find_root(parents: np.ndarray, number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = int(parents[number])
    return number


def are_alike(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return bool (N,): whether the pixels of each pair of images have a correlation of at least MIN_CORRELATION.

    Args:
        left: uint8 (N, H, W, C).
        right: likewise.
    """
    a, b = (_center_pixels(pixels) for pixels in (left, right))
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.asarray((a * b).sum(1) >= MIN_CORRELATION * np.maximum(size, 1e-9))


def _center_pixels(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    return flat - flat.mean(1, keepdims=True)
