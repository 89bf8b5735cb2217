"""Alpha spending: the error probability of one test split, shared out among all decisions that use it.

The k-th decision about a test picture spends 1 / (k (k + 1)) of the total error probability: half of it the first
time, a sixth the second. All shares together are 1, so of a series of comparisons on the same pictures, however
long, at most a fraction `total` promotes a model that is not better (Bonferroni's inequality; until one wins, only
"no" is known of those before, so the next candidate cannot be fitted to the pictures).

Each picture has its own count. A decision's share is the mean over its pictures, so new test pictures bring power
back, and at most `total` is spent for each full set of new pictures.

Sources: D. P. Foster, R. A. Stine, "Alpha-investing", 2008 (alpha spending); J. Tian, A. Ramdas, "Online control
of the familywise error rate", 2021; A. Blum, M. Hardt, "The Ladder", 2015 (one bit of answer for each decision).
"""

from collections.abc import Mapping


def compute_share(num_earlier: int) -> float:
    """Return the share of the error probability that a decision spends, after `num_earlier` that spent some."""
    return 1 / ((num_earlier + 1) * (num_earlier + 2))


def compute_tail(total: float, counts: Mapping[int, int]) -> float:
    """Return the error probability of the next decision.

    Args:
        total: the error probability of all decisions on a test split together, e.g. 0.05.
        counts: for each number of earlier decisions, the number of test pictures that so many have used.
    """
    spent = sum(num * compute_share(num_earlier) for num_earlier, num in counts.items())
    return total * spent / sum(counts.values())
