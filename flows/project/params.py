"""The sections of params.yaml that flows read: promote, sweep, predict, monitor, hooks and after_run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from imageset.params import ParamsModel, RangeMessage, has_section, load_params

PromotionMetric = Literal[
    "accuracy", "macro_f1", "macro_recall", "log_loss", "calibration_error", "map", "micro_f1"
]
SweepMetric = Literal["val_loss", "val_accuracy", "val_map"]
Pruner = Literal["median", "hyperband", "none"]
# flows.sweeps.study.parse_space checks the space, whose keys lead into the section `train`.
DIMENSION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "minItems": 1, "description": "Values to choose from."},
        {
            "type": "object",
            "description": "Numbers from low to high; whole numbers if both are whole.",
            "properties": {"low": {"type": "number"}, "high": {"type": "number"}, "log": {"type": "boolean"}},
            "required": ["low", "high"],
            "additionalProperties": False,
        },
    ]
}


class PromoteParams(ParamsModel):
    """The rules by which a candidate becomes champion."""

    metric: PromotionMetric = Field(
        description="Metric on the test split that decides; map and micro_f1 are for multi-label datasets."
    )
    min_gain: float = Field(
        description="The whole confidence interval of the candidate's gain must lie above this value."
    )
    confidence: Annotated[float, RangeMessage(" is {value}; give 0.5 to 0.999")] = Field(
        ge=0.5, lt=1, description="Confidence level of the interval."
    )
    resamples: int = Field(ge=100, description="How many times the test images are drawn again for the interval.")
    max_class_drop: float | None = Field(
        description="Recall that a class may lose; a larger loss that is not chance prevents promotion; null: any."
    )
    max_ece_rise: float | None = Field(
        description="Rise of the expected calibration error that is allowed, tested likewise; null: any."
    )
    max_slowdown: float | None = Field(
        description="Prediction time for an image that is allowed, as a multiple of the champion's; null: any."
    )


class SweepParams(ParamsModel):
    """The search that `convoy sweep` makes over keys of `train`."""

    space: dict[Any, Any] = Field(
        description="Keys of `train`, each with a list of values or a range of numbers.",
        json_schema_extra={"additionalProperties": DIMENSION_SCHEMA},
    )
    metric: SweepMetric = Field(description="Metric of the best epoch on the validation split.")
    trials: int = Field(ge=1, description="Number of trainings.")
    timeout_min: float | None = Field(
        description="No further training starts after this many minutes; null: no limit."
    )
    processes: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"], RangeMessage(" is {value}; give auto, or 1 or more")
    ] = Field(description="Trainings at the same time; auto: one for each GPU, else for each CPU core.")
    pruner: Pruner = Field(description="How trainings that promise little are ended early.")
    startup_trials: int = Field(ge=1, description="median: trainings that end before any is pruned.")
    warmup_epochs: int = Field(
        ge=0, description="median: epochs before a training is pruned; hyperband: the fewest epochs of a training."
    )
    seed: int = Field(description="Seed of the values that are tried.")


class PredictParams(ParamsModel):
    """How `convoy predict` runs the champion."""

    batch_size: int = Field(ge=1, description="Images in a batch on a GPU; a CPU takes 8.")
    top_k: int = Field(ge=0, description="Number of labels in the column top_k.")
    engine: Literal["auto", "openvino", "onnxruntime", "pytorch"] = Field(
        description="What runs the network; auto: the first of the others that runs here and is correct."
    )
    precision: Literal["auto", "int8", "bf16", "fp32"] = Field(
        description="Precision of the network; auto: the fastest that passes the next two."
    )
    min_agreement: float = Field(
        description="Fraction of the validation images for which a faster precision must agree with fp32."
    )
    max_accuracy_loss: float = Field(
        description="Accuracy on the validation images that a faster precision may lose, as a fraction."
    )


class RetrainParams(ParamsModel):
    """When drift starts the whole pipeline from the last ingested source."""

    enabled: bool = Field(description="Whether drift starts a training without being asked.")
    batches_in_a_row: int = Field(ge=1, description="Consecutive batches that must have drifted.")
    cooldown_hours: float = Field(ge=0, description="Hours since the last retraining.")
    max_per_30_days: int = Field(ge=0, description="Retrainings in 30 days, at most.")


class MonitorParams(ParamsModel):
    """How incoming images are compared with those that the champion was trained on."""

    after_predict: bool = Field(
        description="Whether each `convoy predict` checks images that are new; else only `convoy monitor`."
    )
    pictures: int = Field(description="Images of a batch that are compared, at most; at least min_pictures.")
    min_pictures: int = Field(ge=10, description="A batch with fewer images waits for more.")
    group: str | None = Field(
        default="auto",  # an older params.yaml does not have the key
        description="The images of a scene: auto: folders and sequences of file names; a regular expression over "
        "the uri, whose first group names the scene; null: each image stands alone.",
    )
    alpha: Annotated[float, RangeMessage(" is {value}; give a chance above 0, at most 0.1")] = Field(
        gt=0,
        le=0.1,
        description="Probability that a batch of the same kind is called drifted, over all comparisons together.",
    )
    permutations: int = Field(description="Permutations of each test; at least 8 / alpha.")
    seed: int = Field(ge=0, description="Seed of the sample and of the permutations.")
    shown: int = Field(ge=0, description="Number of images on the page.")
    retrain: RetrainParams = Field(description="When drift starts the whole pipeline.")

    @field_validator("group")
    @classmethod
    def check_group(cls, group: str | None) -> str | None:
        """Return the rule; ValueError if it is a regular expression without a group in parentheses, or none."""
        try:
            if group not in (None, "auto") and not re.compile(group).groups:
                raise ValueError(f" is {group!r}; put parentheses around the part that names the scene")
        except re.error as error:
            raise ValueError(f" is {group!r}, not a regular expression: {error}") from None
        return group

    @model_validator(mode="after")
    def check_test_power(self) -> MonitorParams:
        """Return the section if its numbers fit each other; ValueError says which one does not."""
        from lightning_modules.drift.detector import MAX_CHECKS

        if self.pictures < self.min_pictures:
            raise ValueError(f"pictures is {self.pictures}; give {self.min_pictures} or more")
        needed = math.ceil(MAX_CHECKS / self.alpha)
        if self.permutations + 1 < needed:
            raise ValueError(
                f"permutations is {self.permutations}: too few to show alpha in {MAX_CHECKS} comparisons; "
                f"give {needed} or more"
            )
        return self


class HooksParams(ParamsModel):
    """Addresses for one JSON object by POST; CONVOY_ON_FAILURE and CONVOY_ON_PROMOTION override them."""

    on_failure: str | None = Field(description="http(s) address for a run that failed or was killed.")
    on_promotion: str | None = Field(
        description="http(s) address for another version that serves, by a promotion or a rollback."
    )


class AfterRunParams(ParamsModel):
    """The steps after ingest, training and promotion."""

    push: Annotated[Literal["auto"] | bool, RangeMessage(": must be true, false or auto, not {value}")] = Field(
        description="Whether the files that DVC tracks are pushed to its remote; auto: if one is set."
    )
    commit: bool = Field(
        description="Whether dvc.yaml, dvc.lock, data/raw.dvc, params.yaml, metrics.json and the ledger are "
        "committed."
    )
    branch: str = Field(
        description="Branch of these commits, not the one checked out; it is pushed if it has a remote."
    )


class GcParams(ParamsModel):
    """The earlier versions that `convoy gc` leaves."""

    keep: Annotated[int, RangeMessage(" is {value}; give 1 or more")] = Field(
        default=3,
        ge=1,
        description="Earlier champions of which all is kept, so that `convoy rollback` can go back to them.",
    )


MODELS: dict[str, type[ParamsModel]] = {
    "promote": PromoteParams,
    "sweep": SweepParams,
    "predict": PredictParams,
    "monitor": MonitorParams,
    "hooks": HooksParams,
    "after_run": AfterRunParams,
    "gc": GcParams,
}
LATER_SECTIONS = frozenset({"gc"})  # that an older params.yaml does not have; each of its keys has a default


def load_section_params(path: Path, section: str) -> dict[str, Any]:
    """Return a section of a params.yaml that flows read.

    Raises:
        UserError: a key is unknown or missing, or a value has another type or is out of its range.
    """
    if section in LATER_SECTIONS and not has_section(path, section):
        return MODELS[section]().to_dict()
    return load_params(path, section, MODELS[section]).to_dict()
