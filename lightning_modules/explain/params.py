"""The section `explain` of params.yaml, and how much of it a large network can afford."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from imageset.params import ParamsModel, load_params

NUM_SHIFTS = 8  # distances


class ExplainParams(ParamsModel):
    """The page data/models/report/what_the_network_sees.html."""

    bundle: str = Field(description="Folder of the bundle.")
    store: str = Field(description="Folder of the normalized dataset.")
    seed: int = Field(description="Seed of the images that gradient ascent starts from.")
    layers: int = Field(ge=1, description="Number of layers whose feature maps are shown, at most.")
    maps: int = Field(ge=1, description="Number of feature maps of each layer.")
    filters: int = Field(
        ge=1, description="Number of filters of an early, a middle and a late layer for activation maximization."
    )
    steps: int = Field(ge=1, description="Steps of gradient ascent for each filter.")
    answers: int = Field(ge=0, description="Number of correct and of wrong predictions that Grad-CAM explains.")
    shifted: int = Field(ge=1, description="Number of test images that are shifted.")
    windows: int = Field(ge=1, description="Patches along a side that occlusion hides.")
    budget_gmacs: float = Field(
        ge=0,
        description="Budget of the whole page in 10^9 multiply-adds; a large network gets less of everything.",
    )


@dataclass(frozen=True)
class ComputeBudget:
    """How much the page shows, by the fields of ExplainParams; a large network gets less, see `fit_to_budget`."""

    layers: int
    maps: int
    filters: int
    steps: int
    answers: int
    shifted: int
    windows: int
    seed: int

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> ComputeBudget:
        """Return what the section `explain` of params.yaml asks for."""
        return cls(**{name: params[name] for name in cls.__dataclass_fields__})

    def fit_to_budget(self, macs: int, excite_macs: int, budget: float) -> ComputeBudget:
        """Return what a budget of multiply-adds allows.

        They are counted and not timed, so that the page is the same on every machine. Half of the budget is for
        activation maximization, a quarter for shifts, and a tenth each for the rest.

        Args:
            macs: multiply-adds of one image through the network.
            excite_macs: multiply-adds of one image of the size that activation maximization uses.
            budget: multiply-adds of the whole page.
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


def load_explain_params(path: Path) -> dict[str, Any]:
    """Return the section `explain` of a params.yaml.

    Raises:
        UserError: the file or the section is missing or wrong.
    """
    return load_params(path, "explain", ExplainParams).to_dict()
