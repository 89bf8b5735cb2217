"""The section `train` of params.yaml, apart from what LightningCLI checks by the signatures of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from imageset.params import ParamsModel, check_params


class LightningParams(ParamsModel):
    """The keys of a section that LightningCLI reads."""

    seed_everything: bool | int = Field(default=True, description="Seed of every random number.")
    trainer: dict[str, Any] = Field(default={}, description="Options of pytorch_lightning.Trainer.")
    data: dict[str, Any] = Field(description="Arguments of lightning_modules.datamodule.ImageDataModule.")
    model: dict[str, Any] = Field(
        description="train: arguments of lightning_modules.classifier.Classifier; evaluate: the bundle."
    )


class TrainParams(ParamsModel):
    """The keys of `train` that the stage reads itself."""

    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads; rounding on a CPU, and with it the weights, depend on them; null: all.",
    )
    stop_at_error: float | None = Field(
        default=None,
        description="Training ends when the validation error is at or below this value; null: never.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Training ends after so many epochs without a lower validation loss; null: never.",
    )
    budget: float | None = Field(
        default=None,
        gt=0,
        description="10^12 multiply-adds that fine-tuning of pretrained weights may take on a CPU, for 5 epochs "
        "at most; if it allows fewer than 3, only the last layer is trained; null: any number, as on a GPU.",
    )
    abstain_below: float | None = Field(
        default=None,
        description="The model gives no label where its highest probability is lower; null: it always does.",
    )
    checkpoint_every_min: float = Field(
        description="Minutes between checkpoints within an epoch (one follows each epoch, too); 0: each batch."
    )
    reference_pictures: int = Field(
        ge=1, description="Validation images that later batches are compared with (see monitor), at most."
    )


def check_train_params(config: Mapping[str, Any]) -> None:
    """Raise UserError if one of the stage's own keys is out of its range.

    Args:
        config: the section as LightningCLI parsed it.
    """
    own = {name: value for name, value in config.items() if name in TrainParams.model_fields}
    check_params(own, TrainParams, "params.yaml: train")
