"""The search space of a sweep over keys of `train`, and the Optuna study that chooses values and records results.

The study is an SQLite file, so a killed sweep resumes where it stopped. Another study is used if anything differs
that makes two trainings incomparable: the data, the code, the rest of `train`, the space or the metric.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.project.params import SweepMetric, SweepParams
from flows.project.paths import PARAMS
from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.params import check_given_params, load_section
from imageset.utils.text import suggest_name, suggest_number

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner

METRICS: dict[SweepMetric, Literal["minimize", "maximize"]] = {
    "val_loss": "minimize",
    "val_accuracy": "maximize",
    "val_map": "maximize",
}
OPEN_SECTIONS = ("trainer", "init_args")  # sections that accept more keys than params.yaml lists
SIGNIFICANT_DIGITS = 4  # of the numbers that are tried; params.yaml gets exactly these numbers
# User attributes of the study and its trials.
VALUES_ATTR, ERROR_ATTR, FOLDER_ATTR, RUN_ATTR, PARENT_ATTR = "values", "error", "folder", "run", "parent_run"

Values = dict[str, Any]  # dotted key -> value


def check_sweep(project: Project, trials: int | None, processes: int | None) -> None:
    """Raise UserError if the section `sweep` is wrong or there is no dataset to train on."""
    given = {name: value for name, value in (("trials", trials), ("processes", processes)) if value is not None}
    params, where = project.load_params("sweep") | given, f"{project / PARAMS}: sweep"
    check_sweep_params(params, where)
    parse_space(params, load_section(project / PARAMS, "train"), where)
    project.require_dataset()


def check_sweep_params(params: Mapping[str, Any], where: str) -> None:
    """Raise UserError if a value of the section `sweep`, or of an option in its place, is out of its range.

    Args:
        params: the section, or a part of it.
        where: how messages begin.
    """
    check_given_params(params, SweepParams, where)


@dataclass(frozen=True)
class Dimension:
    """One key of the space.

    Attributes:
        key: dotted path into params.yaml, beginning with `train.`.
        choices: the values to choose from; empty for numbers.
        low, high: the range of numbers.
        log: whether numbers are drawn uniformly by their logarithm.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> Any:
        """Return the value that Optuna chooses for this trial."""
        if self.choices:
            choices = [json.dumps(choice) for choice in self.choices]  # Optuna takes no lists or dictionaries
            return json.loads(str(trial.suggest_categorical(self.key, choices)))
        if self.is_integer:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        drawn = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return min(max(float(f"{drawn:.{SIGNIFICANT_DIGITS}g}"), float(self.low)), float(self.high))

    def to_internal(self, value: Any) -> Any:
        """Return a value as Optuna stores it, or None if it does not lie in this dimension."""
        if self.choices:
            return json.dumps(value) if value in self.choices else None
        fits = isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high
        return value if fits and (isinstance(value, int) or not self.is_integer) else None


def parse_space(params: Mapping[str, Any], train: Mapping[str, Any], where: str) -> list[Dimension]:
    """Return the dimensions of `sweep.space`.

    Args:
        params: the section `sweep`.
        train: the section `train`, which the keys of the space lead into.
        where: how messages begin.

    Raises:
        UserError: `train` does not have a key, or a range or a list of values is invalid.
    """
    if not isinstance(params["space"], Mapping) or not params["space"]:
        raise UserError(f"{where}.space: name keys of train, each with {{low, high}} or a list of values")
    return [_parse_dimension(key, given, train, f"{where}.space.{key}") for key, given in params["space"].items()]


def _parse_dimension(key: str, given: Any, train: Mapping[str, Any], where: str) -> Dimension:
    _check_key(key, train, where)
    if isinstance(given, list) and given:
        return Dimension(key, tuple(given))
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: give {{low: ..., high: ...}} or a list of values, not {given!r}")
    for name in given:
        if name not in ("low", "high", "log"):
            raise UserError(f"{where}: unknown key '{name}'; {suggest_name(name, ('low', 'high', 'log'))}")
    low, high, log = given.get("low"), given.get("high"), given.get("log", False)
    for name, number in (("low", low), ("high", high)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            hint = suggest_number(number, whole=False) if isinstance(number, str) else ""
            raise UserError(f"{where}.{name}: must be a number, not {number!r}{hint}")
    assert low is not None and high is not None
    if low > high or (log and low <= 0) or not isinstance(log, bool):
        raise UserError(f"{where}: low must not lie above high, and with `log: true` above 0")
    return Dimension(key, (), low, high, log)


def _check_key(key: str, train: Mapping[str, Any], where: str) -> None:
    first, *rest = str(key).split(".")
    if first != "train" or not rest:
        raise UserError(f"{where}: keys begin with 'train.', as in train.model.warmup")
    section: Any = train
    for place, name in enumerate(rest):
        if not isinstance(section, Mapping) or name not in section:
            if place == len(rest) - 1 and isinstance(section, Mapping) and rest[place - 1] in OPEN_SECTIONS:
                return
            known = section if isinstance(section, Mapping) else ()
            raise UserError(f"{where}: train has no such key; '{name}': {suggest_name(name, known)}")
        section = section[name]


# ---- values in a section ---------------------------------------------------------------------------------------


def read_value(key: str, document: Mapping[str, Any]) -> Any:
    """Return the value under a dotted key, or None if there is none."""
    for name in key.split("."):
        if not isinstance(document, Mapping) or name not in document:
            return None
        document = document[name]
    return document


def set_value(key: str, value: Any, document: Any) -> bool:
    """Set the value under a dotted key; return whether it differs from the previous value."""
    *path, last = key.split(".")
    for name in path:
        document = document[name]
    changed = last not in document or document[last] != value
    if changed:
        document[last] = value
    return bool(changed)


# ---- the study -------------------------------------------------------------------------------------------------


def drop_varied(train: Mapping[str, Any], dimensions: list[Dimension]) -> dict[str, Any]:
    """Return {"train": the section `train`} without the keys that a sweep writes."""
    rest: dict[str, Any] = json.loads(json.dumps({"train": train}))
    for key in ["train.threads", *(dimension.key for dimension in dimensions)]:
        section, _, last = key.rpartition(".")
        (read_value(section, rest) or {}).pop(last, None)
    return rest


def compute_study_key(
    fingerprint: str, train: Mapping[str, Any], dimensions: list[Dimension], params: Mapping[str, Any],
    code_digest: str,
) -> str:  # fmt: skip
    """Return the SHA-256, in hexadecimal digits, of everything that makes trainings comparable.

    A key of the space counts with its range, not with its present value in params.yaml: the sweep writes the best
    value there and is still the same sweep.

    Args:
        fingerprint: the dataset's.
        train: the section `train`.
        dimensions: the space.
        params: the section `sweep`.
        code_digest: of the code of the stage `train` and of the project's own modules.
    """
    rest = drop_varied(train, dimensions)
    dimension_reprs = [repr(dimension) for dimension in dimensions]
    identity = [fingerprint, rest, dimension_reprs, params["metric"], params["seed"], code_digest]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_study(folder: Path, params: Mapping[str, Any], max_epochs: int) -> Study:
    """Return the study in a folder; create it if there is none.

    Args:
        folder: where study.db lies; created if it is missing.
        params: the section `sweep`.
        max_epochs: of a training, for the pruner.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').resolve()}", study_name="sweep", load_if_exists=True,
        direction=METRICS[params["metric"]], pruner=_make_pruner(params, max_epochs),
    )  # fmt: skip
    # with the same seed the second half of a killed sweep would repeat the draws of the first
    study.sampler = optuna.samplers.TPESampler(seed=params["seed"] + len(study.trials))
    return study


def _make_pruner(params: Mapping[str, Any], max_epochs: int) -> BasePruner:
    from optuna import pruners

    if params["pruner"] == "median":
        return pruners.MedianPruner(params["startup_trials"], params["warmup_epochs"])
    if params["pruner"] == "hyperband":
        return pruners.HyperbandPruner(max(1, params["warmup_epochs"]), max_epochs)
    return pruners.NopPruner()


def resume_study(study: Study, dimensions: list[Dimension], present: Values) -> int:
    """Enqueue the trainings that a killed sweep left unfinished or, in a new study, the values of params.yaml.

    Args:
        study: the study of the sweep.
        dimensions: the space.
        present: the values in params.yaml, by key.

    Returns:
        The number of unfinished trainings.
    """
    from optuna.trial import TrialState

    stale = study.get_trials(states=(TrialState.RUNNING,))
    for trial in stale:
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params.keys() == {dimension.key for dimension in dimensions}:
            study.enqueue_trial(
                trial.params, user_attrs={FOLDER_ATTR: trial.user_attrs.get(FOLDER_ATTR, trial.number)}
            )
    if not study.trials:
        values = {dimension.key: dimension.to_internal(present[dimension.key]) for dimension in dimensions}
        if None not in values.values():
            study.enqueue_trial(values)
    return len(stale)


def count_finished(study: Study) -> int:
    """Return the number of trainings that were not cut off: complete, pruned, or failed with an error."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return sum(1 for trial in ended if trial.state != TrialState.FAIL or ERROR_ATTR in trial.user_attrs)
