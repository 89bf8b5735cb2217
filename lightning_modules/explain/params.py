"""The section `explain` of params.yaml, and how much of it a large network can afford."""

import math
from dataclasses import dataclass
from typing import Any

from imageset.exceptions import UserError

KNOWN_PARAMS = {
    "bundle": str, "store": str, "seed": int, "layers": int, "maps": int, "filters": int, "steps": int,
    "answers": int, "shifted": int, "windows": int, "budget_gmacs": (int, float),
}  # fmt: skip
NUM_SHIFTS = 8  # distances


@dataclass(frozen=True)
class ComputeBudget:
    """How much is looked at; a large network gets less, see `affordable`."""

    layers: int
    maps: int
    filters: int
    steps: int
    answers: int
    shifted: int
    windows: int
    seed: int

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "ComputeBudget":
        """As params.yaml: explain says."""
        for name in ("layers", "maps", "filters", "steps", "shifted", "windows"):
            if params[name] < 1:
                raise UserError(f"params.yaml: explain.{name} is {params[name]}; give 1 or more")
        return cls(**{name: params[name] for name in cls.__dataclass_fields__})

    def fit_to_budget(self, macs: int, excite_macs: int, budget: float) -> "ComputeBudget":
        """What fits into a budget of multiply-adds: counted, not timed, so that the page is the same everywhere.

        Half is for the pictures that excite filters, a quarter for shifts, a tenth each for the rest.

        Args:
            macs: of one picture through the network.
            excite_macs: of one picture of the size that is made to excite a filter.
            budget: multiply-adds.
        """
        ascents = int(0.5 * budget / (3 * 3 * max(1, excite_macs)))  # three layers; forward and back
        filters = min(self.filters, max(1, ascents // self.steps))
        return ComputeBudget(
            layers=self.layers,
            maps=self.maps,
            filters=filters,
            steps=min(self.steps, ascents // filters),
            answers=min(self.answers, int(0.1 * budget / (2 * 3 * max(1, macs)))),
            shifted=min(self.shifted, max(1, int(0.25 * budget / (4 * NUM_SHIFTS * max(1, macs))))),
            windows=min(self.windows, max(2, math.isqrt(int(0.1 * budget / max(1, macs))))),
            seed=self.seed,
        )
