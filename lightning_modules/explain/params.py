"""The section `explain` of params.yaml, and how much of it a large network can afford."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from imageset.params import ParamsModel, load_params

NUM_SHIFTS = 5  # distances
MAX_SEARCHED = 512  # images among which patches are searched
MIN_EXAMPLE_WINDOWS = 5  # patches along a side; fewer show too little of where a network looks


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
    answers: int = Field(
        ge=0, description="Number of correct and of wrong predictions that Grad-CAM and occlusion explain."
    )
    shifted: int = Field(ge=1, description="Number of test images that are shifted.")
    windows: int = Field(ge=1, description="Patches along a side that occlusion hides.")
    budget_gmacs: float = Field(
        ge=0,
        description="Budget of the whole page in 10^9 multiply-adds; a large network gets less of everything.",
    )


@dataclass(frozen=True)
class ComputeBudget:
    """How much the page shows; a large network gets less, see `fit_to_budget`.

    Attributes:
        searched: images among which the patches are searched that excite a filter most.
        example_windows: patches along a side that occlusion hides in each of the answers.
        others: as in ExplainParams.
    """

    layers: int
    maps: int
    filters: int
    steps: int
    answers: int
    shifted: int
    windows: int
    seed: int
    searched: int = MAX_SEARCHED
    example_windows: int = 0

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> ComputeBudget:
        """Return what the section `explain` of params.yaml asks for."""
        names = [name for name in cls.__dataclass_fields__ if name in ExplainParams.model_fields]
        return cls(**{name: params[name] for name in names}, example_windows=params["windows"])

    def fit_to_budget(self, macs: int, excite_macs: int, budget: float, passes: int = 1) -> ComputeBudget:
        """Return what a budget of multiply-adds allows.

        They are counted and not timed, so that the page is the same on every machine.

        Args:
            macs: multiply-adds of one image through the network.
            excite_macs: multiply-adds of one image of the size that activation maximization uses.
            budget: multiply-adds of the whole page.
            passes: of an image through the network for one prediction; 2 with its mirror image.
        """
        macs, predict_macs = max(1, macs), max(1, macs * passes)
        ascents = int(0.3 * budget / (3 * 3 * max(1, excite_macs)))  # three layers; forward and back
        filters = min(self.filters, max(1, ascents // self.steps))
        examples = int(0.15 * budget / (2 * predict_macs))  # predictions for each of the answers, right and wrong
        answers = min(self.answers, examples // MIN_EXAMPLE_WINDOWS**2)
        return ComputeBudget(
            layers=self.layers,
            maps=self.maps,
            filters=filters,
            steps=min(self.steps, ascents // filters),
            answers=answers,
            shifted=min(self.shifted, max(1, int(0.25 * budget / (4 * NUM_SHIFTS * predict_macs)))),
            windows=min(self.windows, max(2, math.isqrt(int(0.05 * budget / predict_macs)))),
            seed=self.seed,
            searched=min(self.searched, int(0.15 * budget / macs)),
            example_windows=min(self.windows, math.isqrt(examples // max(1, answers))),
        )


def load_explain_params(path: Path) -> dict[str, Any]:
    """Return the section `explain` of a params.yaml.

    Raises:
        UserError: the file or the section is missing or wrong.
    """
    return load_params(path, "explain", ExplainParams).to_dict()
