"""params.schema.json: the JSON schema (draft 2020-12) of params.yaml, by which editors complete and check it.

`python -m flows.project.params_schema`, called in the project's folder, writes the file. It is generated from the
models of the sections, each in the `params.py` of the room that reads it; LightningCLI checks what stands below
`trainer`, `data` and `model`, which are plain objects here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

from flows.project.params import (
    AfterRunParams,
    GcParams,
    HooksParams,
    MonitorParams,
    PredictParams,
    PromoteParams,
    SweepParams,
)
from flows.project.paths import TEMPLATES
from flows.project.project import NAME_PATTERN, Project
from imageset.exceptions import EXIT_STATUS, UserError
from imageset.normalize.params import NormalizeParams
from imageset.params import ParamsModel, VersionParams
from imageset.utils.atomic_write import write_text
from lightning_modules.evaluation.params import EvaluationParams
from lightning_modules.explain.params import ExplainParams
from lightning_modules.training.params import LightningParams, TrainParams

SCHEMA_FILE = Path("params.schema.json")
NAME_SCHEMA = f"^{NAME_PATTERN.pattern}$"


class TrainSection(TrainParams, LightningParams):
    """Training: the bundle data/models/classifier."""


class EvaluateSection(EvaluationParams, LightningParams):
    """Evaluation of the bundle on the test split: metrics.json and data/models/report."""


class ParamsFile(ParamsModel):
    """Every number that changes a result, keyed by stage."""

    model_config = ConfigDict(extra="allow")  # a stage that a user adds has a section of its own

    name: str = Field(
        pattern=NAME_SCHEMA,
        description="Name of the dataset, of its registered model and of its MLflow experiment.",
    )
    convoy: VersionParams | None = Field(
        default=None, description="The Convoy that the stages ran with; not in Convoy's own repository."
    )
    normalize: NormalizeParams
    train: TrainSection
    evaluate: EvaluateSection
    explain: ExplainParams
    promote: PromoteParams
    sweep: SweepParams
    predict: PredictParams
    monitor: MonitorParams
    hooks: HooksParams
    after_run: AfterRunParams
    gc: GcParams = GcParams()


class UntitledJsonSchema(GenerateJsonSchema):
    """A generator that repeats no key as its title."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False for every field."""
        return False


def build_schema() -> dict[str, Any]:
    """Return the JSON schema of a whole params.yaml."""
    schema = ParamsFile.model_json_schema(schema_generator=UntitledJsonSchema)
    return {"$schema": UntitledJsonSchema.schema_dialect, **schema}


def format_schema() -> str:
    """Return the text of params.schema.json."""
    return json.dumps(build_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write params.schema.json beside params.yaml; return the exit status.

    In Convoy's own repository the copy that new projects get is written, too.
    """
    try:
        project = Project.find()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_STATUS
    paths = [project / SCHEMA_FILE]
    if TEMPLATES.is_relative_to(project.folder):
        paths.append(TEMPLATES / SCHEMA_FILE)
    for path in paths:
        write_text(path, format_schema())
        print(f"{path} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
