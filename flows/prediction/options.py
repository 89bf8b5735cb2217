"""Options of one `convoy predict`: what to predict, with which model, and what to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PredictOptions:
    """Options of one prediction, as the flow `flows.predict.predict` received them.

    Attributes:
        source: everything that ingest takes: a folder, an archive, a table ..., or image files; only read.
        out: table to write: .parquet, .csv or .jsonl.
        model: registered name, or "imagenet"; None for the model named like the dataset in data/normalized.
        new_only: skip images that are in a table which this model version wrote before.
        engine: engine that runs the network; None for the one in params.yaml.
        precision: precision of that engine; None for the one in params.yaml.
        review: number of images to copy into `review_folder` for labeling; None for none.
        review_for: labelling tool whose document is written into `review_folder` as well; None for none.
        tag: "xmp" or "sidecar": how labels are written to images; None: they are not.
        in_place: tag the images of the source themselves instead of copies in `tag_folder`.
        executor: dask://HOST:PORT of a scheduler whose workers decode and run the network; None for this machine.
    """

    source: str | list[str]
    out: Path
    model: str | None = None
    new_only: bool = False
    engine: str | None = None
    precision: str | None = None
    review: int | None = None
    tag: str | None = None
    in_place: bool = False
    executor: str | None = None
    review_for: str | None = None

    @property
    def review_folder(self) -> Path:
        """The folder that the images to label are copied into."""
        return self.out.with_suffix(".review")

    @property
    def tag_folder(self) -> Path | None:
        """The folder for tagged copies; None where the source's own images are tagged."""
        return None if self.in_place else self.out.with_suffix(".tagged")

    def list_outputs(self) -> list[Path]:
        """Return the table and the folders that are written; two predictions may share one of them only."""
        folders = [self.review_folder] if self.review else []
        folders += [self.tag_folder] if self.tag and self.tag_folder else []
        return [self.out, *folders]

    def override_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the section `predict` of params.yaml with the engine and the precision of these options."""
        overrides = {"engine": self.engine, "precision": self.precision}
        merged = {**params, **{name: value for name, value in overrides.items() if value}}
        if self.executor and merged["engine"] == "auto":
            merged["engine"] = "pytorch"  # the only engine that the workers of a cluster run
        return merged
