"""Near duplicates: pictures that look alike, found over the whole set without comparing every pair.

Two hashes that differ in at most k of 64 bits agree in at least one of k + 1 bands of them (pigeonhole), so only
pictures that share a band are compared; what the hashes suggest, the pixels must confirm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

MIN_CORRELATION = 0.98  # of the normalized pixels; a recompressed or rescaled copy is far above, a sibling below
# What a million near-black pictures may cost: where more than so many hashes share a band, each is compared with
# its neighbours in the order of their bits only; a picture that proved unlike so many that its hash suggested is
# left alone.
MAX_BAND_SIZE, NUM_NEIGHBOURS, MAX_UNLIKE = 2_000, 64, 64
_PAIRS_AT_ONCE = 1 << 18
_CONFIRMED_AT_ONCE = 256


def group_near_duplicates(
    phashes: np.ndarray,
    max_bits: int,
    confirm: Callable[[np.ndarray, np.ndarray], np.ndarray],
    leaders: np.ndarray | None = None,
) -> np.ndarray:
    """int32 (N,): for each picture the number of the first picture of its group; its own where it is alone.

    `phashes` is uint64 (N,). `confirm(one, other)` gets the numbers of candidate pairs, returns a bool for each.
    `tied` is such a result from before: what it ties together stays together.
    """
    parents = np.arange(len(phashes), dtype=np.int32) if leaders is None else leaders.astype(np.int32)
    if not len(phashes):
        return parents
    num_unlike = np.zeros(len(phashes), np.uint16)  # a batch adds 256 at most to what is below MOST_UNLIKE

    def open_questions(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        apart = _find_roots(parents, one) != _find_roots(
            parents, other
        )  # what is joined already needs no other look
        still = apart & (num_unlike[one] < MAX_UNLIKE) & (num_unlike[other] < MAX_UNLIKE)
        return one[still], other[still]

    for pairs in _iter_candidate_pairs(phashes, max_bits):
        one, other = open_questions(*pairs)
        for start in range(0, len(one), _CONFIRMED_AT_ONCE):
            some = slice(start, start + _CONFIRMED_AT_ONCE)
            a, b = open_questions(one[some], other[some])
            if len(a):
                sure = confirm(a, b)
                _join_pairs(parents, a[sure], b[sure])
                for unlike in (a[~sure], b[~sure]):
                    np.add.at(num_unlike, unlike, 1)
    return _find_roots(parents, np.arange(len(phashes), dtype=np.int32))


def _iter_candidate_pairs(phashes: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of numbers of pictures whose hashes differ in at most max_bits bits."""
    unique, first, same = _find_distinct(phashes)
    twins = np.flatnonzero(same != np.arange(len(phashes), dtype=np.int32)).astype(np.int32)
    yield same[twins], twins
    del same, twins
    edges = np.linspace(0, 64, max_bits + 2).astype(int)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        band = unique << np.uint64(64 - high)
        band |= unique >> np.uint64(high % 64)  # turned, so that the band's bits come first
        order = np.argsort(band).astype(np.int32)
        band = band[order]
        band >>= np.uint64(64 - (high - low))
        for one, other in _iter_equal_pairs(band):
            one, other = order[one], order[other]
            close = np.bitwise_count(unique[one] ^ unique[other]) <= max_bits
            yield first[one[close]], first[other[close]]


def _find_distinct(phashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the different hashes, sorted; the first picture with each; for each picture the first with its hash)."""
    order = np.argsort(phashes, kind="stable").astype(np.int32)
    values = phashes[order]
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    first = order[new]
    same = np.empty(len(values), np.int32)
    same[order] = first[np.cumsum(new, dtype=np.int32) - 1]
    return values[new], first, same


def _iter_equal_pairs(values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs of positions of equal neighbours in sorted values, in pieces that fit into memory."""
    new = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=new[1:])
    starts = np.flatnonzero(new).astype(np.int32)
    ends = np.append(starts[1:], np.int32(len(values)))
    after = np.repeat(ends, ends - starts)  # partners that follow each position
    after -= np.arange(1, len(values) + 1, dtype=np.int32)
    crowded = np.repeat(ends - starts > MAX_BAND_SIZE, ends - starts)
    after[crowded] = np.minimum(after[crowded], NUM_NEIGHBOURS)
    del new, starts, ends, crowded
    begin = 0
    total = np.cumsum(after, dtype=np.int64)
    while begin < len(values):
        base = total[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(total, base + _PAIRS_AT_ONCE, side="right")))
        counts = after[begin:stop]
        one = np.repeat(np.arange(begin, stop), counts)
        within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield one, one + 1 + within
        begin = stop


def _find_roots(parents: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    roots = parents[numbers]
    while True:
        further = parents[roots]
        if (further == roots).all():
            return roots
        roots = further


def _join_pairs(parents: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    """Tie pairs together; the root of a group is its smallest number."""
    for first, second in zip(one.tolist(), other.tolist(), strict=True):
        a, b = _find_root(parents, first), _find_root(parents, second)
        if a != b:
            parents[max(a, b)] = min(a, b)


def _find_root(parents: np.ndarray, number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = int(parents[number])
    return number


def are_alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool (N,): whether uint8 pictures (N, H, W, C) correlate pixel by pixel at MIN_CORRELATION or more."""
    a, b = (_center_pixels(pixels) for pixels in (one, other))
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.asarray((a * b).sum(1) >= MIN_CORRELATION * np.maximum(size, 1e-9))


def _center_pixels(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    return flat - flat.mean(1, keepdims=True)
