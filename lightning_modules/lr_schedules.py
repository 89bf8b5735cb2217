"""Warmup + cosine, one-cycle."""

import math


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor of the learning rate, 0..1, at `step` of `total` with the first part `warmup` rising."""
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Factor of the learning rate: a line up from a 25th in the first part `warmup`, then a line down to zero.

    Source: Smith and Topin, "Super-Convergence", 2017.
    """
    rise = warmup * total
    if step < rise:
        return 0.04 + 0.96 * step / rise
    return max(0.0, 1 - (step - rise) / max(1, total - rise))
