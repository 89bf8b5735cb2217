"""The section `evaluate` of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from imageset.params import ParamsModel, RangeMessage, check_params, load_section
from lightning_modules.evaluation.bootstrap import Bootstrap

LEVEL_MESSAGE = RangeMessage(" is {value}; give a level between 0 and 1")


class BootstrapParams(ParamsModel):
    """Confidence intervals by resampling the test images."""

    resamples: int = Field(ge=1, description="How many times the test images are drawn again.")
    level: Annotated[float, LEVEL_MESSAGE] = Field(gt=0, lt=1, description="Confidence level of the intervals.")
    seed: int = Field(description="Seed of the draws.")

    def to_bootstrap(self) -> Bootstrap:
        """Return the object that computes the intervals."""
        return Bootstrap(self.resamples, self.level, self.seed)


class EvaluationParams(ParamsModel):
    """How a bundle is evaluated: the keys that the stage reads beside those of LightningCLI."""

    slices: list[str] = Field(
        description="Columns of index.parquet by whose values accuracy is reported; size: the short side."
    )
    smallest_slice: int = Field(ge=1, description="A slice with fewer images than this is marked as small.")
    reliability_bins: int = Field(ge=1, description="Number of bins of the calibration error.")
    worst_mistakes: int = Field(ge=0, description="Number of images in the gallery of the worst mistakes.")
    bootstrap: BootstrapParams = Field(description="Confidence intervals by resampling the test images.")

    @classmethod
    def from_params_file(cls, path: Path) -> EvaluationParams:
        """Return the stage's own keys of a params.yaml.

        Raises:
            UserError: a key is missing, or a value has another type or is out of its range.
        """
        section = {name: value for name, value in load_section(path, "evaluate").items() if name in KNOWN_PARAMS}
        return check_params(section, cls, f"{path}: evaluate")


KNOWN_PARAMS = frozenset(EvaluationParams.model_fields)  # all other keys of the section are LightningCLI's
