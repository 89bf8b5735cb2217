"""Learning rate schedules: warm-up and cosine, one-cycle."""

import math


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Return the factor of the learning rate, 0..1: a linear rise, then half a cosine down to zero.

    Args:
        step: number of steps before this one.
        total: number of all steps.
        warmup: share of all steps in which the factor rises.
    """
    rise = warmup * total
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Return the factor of the learning rate, 0..1: a linear rise from 1/25, then a linear fall to zero.

    Source: Smith and Topin, "Super-Convergence", 2017.

    Args:
        step: number of steps before this one.
        total: number of all steps.
        warmup: share of all steps in which the factor rises.
    """
    rise = warmup * total
    if step < rise:
        return 0.04 + 0.96 * step / rise
    return max(0.0, 1 - (step - rise) / max(1, total - rise))
