"""The section `normalize` of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SkipValidation, model_validator

from imageset.decoding.spec import FIDELITIES, FITS, INTERPOLATIONS
from imageset.params import OneOf, ParamsModel, RangeMessage, check_params, load_section
from imageset.splits.leakage import ON_LEAK
from imageset.splits.split_rule import SPLIT_METHODS, SplitRule

# SplitRule checks the fractions together, and tells dates without quotes from other values that are not text.
FRACTION_SCHEMA: dict[str, Any] = {"exclusiveMinimum": 0, "exclusiveMaximum": 1}
CutDate = Annotated[str | None, SkipValidation]


class SplitParams(ParamsModel):
    """How images are divided into train, val and test."""

    by: Annotated[str, OneOf(SPLIT_METHODS)] = Field(
        default="hash", description="hash: by the hash of the image's group, else of the image; time: by date."
    )
    seed: int = Field(description="Salt of the hash.")
    val: float = Field(description="Fraction of the images for validation.", json_schema_extra=FRACTION_SCHEMA)
    test: float = Field(description="Fraction of the images for testing.", json_schema_extra=FRACTION_SCHEMA)
    val_from: CutDate = Field(
        default=None, description="With `by: time`: images from this date on, in quotes, are for validation."
    )
    test_from: CutDate = Field(
        default=None, description="With `by: time`: images from this date on, in quotes, are for testing."
    )
    group: str | None = Field(
        default=None,
        description="auto: sequences that file names and looks show are groups, and the groups of each class are "
        "stratified. Or a regular expression over the uri whose first group is the group, if the source has none. "
        "null, or left out: neither.",
    )
    time: str | None = Field(
        default=None,
        description="Regular expression over the uri whose first group is the time, if the source has none.",
    )

    @model_validator(mode="after")
    def check_rule(self) -> SplitParams:
        """Return the section if a split can be made by it; UserError says why not."""
        SplitRule(**self.to_dict())
        return self


class NormalizeParams(ParamsModel):
    """Decode, check and split the images."""

    size_px: Annotated[
        Annotated[int, Field(ge=1, le=4096)] | Literal["auto"],
        RangeMessage(": must be auto or 1 to 4096 (px), not {value}"),
    ] = Field(
        description="Side of the square images in pixels; auto: the smallest of 32, 64, 96, 128, 160, 192, "
        "224 that is not below the median short side."
    )
    channels: Annotated[int | str, OneOf(("auto", 1, 3))] = Field(
        description="1 for grey, 3 for colour; auto: 1 if every image is grey."
    )
    fit: Annotated[str, OneOf(FITS)] = Field(description="How an image becomes square.")
    interpolation: Annotated[str, OneOf(tuple(INTERPOLATIONS))] = Field(
        description="How an image is resized, with antialiasing."
    )
    fidelity: Annotated[str, OneOf(FIDELITIES)] = Field(
        default="exact",
        description="exact: every pixel is decoded; fast: JPEGs may be scaled down while decoding.",
    )
    max_pixels: Annotated[int, RangeMessage(": must be positive, not {value}")] = Field(
        ge=1, description="Images with more pixels are rejected before they are decoded."
    )
    max_reject_fraction: Annotated[float, RangeMessage(": must be from 0 to 1, not {value}")] = Field(
        ge=0, le=1, description="The stage fails if more than this fraction of the images is rejected."
    )
    near_duplicate_bits: Annotated[int | None, OneOf((None, *range(9)))] = Field(
        default=None,
        description="Images whose 64-bit hashes differ in at most so many bits form one group; null: off.",
    )
    on_leak: Annotated[str, OneOf(ON_LEAK)] = Field(
        default="warn", description="What happens to near duplicates that the source put into different splits."
    )
    min_test_per_class: int = Field(
        default=0, description="A class with fewer test images than this is reported as a warning."
    )
    split: SplitParams = Field(description="How images are divided into train, val and test.")


def read_normalize_params(path: str | Path) -> dict[str, Any]:
    """Return the checked section `normalize` of a params.yaml, with defaults for keys that are left out.

    Raises:
        UserError: the section is missing or wrong.
    """
    return check_normalize_params(load_section(path, "normalize"))


def check_normalize_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with defaults for keys that are left out.

    Raises:
        UserError: a key is wrong, or a value has another type or is out of its range.
    """
    return check_params(params, NormalizeParams, "params.yaml: normalize").to_dict()
