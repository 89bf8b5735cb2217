"""The section `evaluate` of params.yaml."""

from dataclasses import dataclass
from pathlib import Path

from imageset.exceptions import UserError
from imageset.params import check_keys, load_section
from lightning_modules.evaluation.bootstrap import Bootstrap

# What the stage reads beside Lightning's own sections.
KNOWN_PARAMS = {
    "slices": list,
    "smallest_slice": int,
    "reliability_bins": int,
    "worst_mistakes": int,
    "bootstrap": {"resamples": int, "level": float, "seed": int},
}


@dataclass(frozen=True)
class EvaluationParams:
    """How to judge; see params.yaml: evaluate."""

    slices: list[str]
    smallest_slice: int
    reliability_bins: int
    worst_mistakes: int
    bootstrap: Bootstrap

    @classmethod
    def from_params_file(cls, path: Path) -> "EvaluationParams":
        """The stage's own keys of params.yaml.

        Raises:
            UserError: one is missing, of another type, or out of its range.
        """
        section = {name: value for name, value in load_section(path, "evaluate").items() if name in KNOWN_PARAMS}
        check_keys(section, KNOWN_PARAMS, f"{path}: evaluate")
        settings = cls(**{**section, "bootstrap": Bootstrap(**section["bootstrap"])})
        at_least = {"smallest_slice": 1, "reliability_bins": 1, "worst_mistakes": 0}
        for name, least in at_least.items():
            if section[name] < least:
                raise UserError(f"{path}: evaluate.{name} is {section[name]}; give {least} or more")
        if settings.bootstrap.resamples < 1 or not 0 < settings.bootstrap.level < 1:
            raise UserError(f"{path}: evaluate.bootstrap: give 1 or more resamples, and a level between 0 and 1")
        return settings
