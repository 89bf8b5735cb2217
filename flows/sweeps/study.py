"""What a sweep tries: a space over the keys of `train`, and Optuna's study, which chooses in it and remembers.

The study is an SQLite file, so a sweep that was killed goes on where it stopped. It is another one where anything
differs that makes two trainings incomparable: the data, the code, the rest of `train`, the space, the metric.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.project.paths import PARAMS
from imageset.exceptions import UserError
from imageset.utils.text import suggest_name

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner


def check_sweep(project: Path, trials: int | None, processes: int | None) -> None:
    """Raise UserError if params.yaml: sweep is wrong, or there is nothing to train on."""
    from flows.project.params import load_stage_params
    from flows.project.paths import read_dataset_name
    from imageset.params import load_section

    given = {name: value for name, value in (("trials", trials), ("processes", processes)) if value is not None}
    params, where = load_stage_params(project, "sweep") | given, f"{project / PARAMS}: sweep"
    check_sweep_params(params, where)
    parse_space(params, load_section(project / PARAMS, "train"), where)
    read_dataset_name(project)


METRICS: dict[str, Literal["minimize", "maximize"]] = {
    "val_loss": "minimize",
    "val_accuracy": "maximize",
    "val_map": "maximize",
}
PRUNERS = ("median", "hyperband", "none")
OPEN_SECTIONS = ("trainer", "init_args")  # sections that take more keys than params.yaml spells out
SIGNIFICANT_DIGITS = 4  # of a number that is tried: what is written into params.yaml is what was trained with
VALUES_ATTR, ERROR_ATTR, FOLDER_ATTR, RUN_ATTR, PARENT_ATTR = (
    "values",
    "error",
    "folder",
    "run",
    "parent_run",
)  # user attributes

Values = dict[str, Any]  # dotted key -> value


@dataclass(frozen=True)
class Dimension:
    """One key of the space: a list of values, or numbers from low to high."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether its numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> Any:
        """A value of Optuna's choice."""
        if self.choices:
            return json.loads(str(trial.suggest_categorical(self.key, [json.dumps(one) for one in self.choices])))
        if self.is_integer:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        drawn = trial.suggest_float(self.key, self.low, self.high, log=self.log)
        return min(max(float(f"{drawn:.{SIGNIFICANT_DIGITS}g}"), float(self.low)), float(self.high))

    def to_internal(self, value: Any) -> Any:
        """A value as Optuna keeps it; None if it does not lie in this dimension."""
        if self.choices:
            return json.dumps(value) if value in self.choices else None
        fits = isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high
        return value if fits and (isinstance(value, int) or not self.is_integer) else None


def parse_space(params: Mapping[str, Any], train: Mapping[str, Any], where: str) -> list[Dimension]:
    """The dimensions that `sweep.space` names.

    Args:
        params: the section `sweep`.
        train: the section that its keys lead into.
        where: how messages begin.

    Raises:
        UserError: a key that `train` has not, or a range or list that is none.
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
            raise UserError(f"{where}.{name}: must be a number, not {number!r} (1.0e-4, not 1e-4)")
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


def check_sweep_params(params: Mapping[str, Any], where: str) -> None:
    """Raises UserError where a value of the section `sweep` is none that it may have."""
    for name, known in (("metric", tuple(METRICS)), ("pruner", PRUNERS)):
        if params[name] not in known:
            raise UserError(f"{where}.{name}: {params[name]!r}: {suggest_name(params[name], known)}")
    lowest = {"trials": 1, "startup_trials": 1, "warmup_epochs": 0}
    for name, least in lowest.items():
        if params[name] < least:
            raise UserError(f"{where}.{name} is {params[name]}; give {least} or more")
    processes = params["processes"]
    if processes != "auto" and (not isinstance(processes, int) or processes < 1):
        raise UserError(f"{where}.processes is {processes!r}; give auto, or 1 or more")


# ---- values in a section ---------------------------------------------------------------------------------------


def read_value(key: str, document: Mapping[str, Any]) -> Any:
    """What stands under a dotted key; None where nothing does."""
    for name in key.split("."):
        if not isinstance(document, Mapping) or name not in document:
            return None
        document = document[name]
    return document


def set_value(key: str, value: Any, document: Any) -> bool:
    """Let a value stand under a dotted key; True if another one stood there."""
    *path, last = key.split(".")
    for name in path:
        document = document[name]
    changed = last not in document or document[last] != value
    if changed:
        document[last] = value
    return bool(changed)


# ---- the study -------------------------------------------------------------------------------------------------


def compute_study_key(
    fingerprint: str, train: Mapping[str, Any], dimensions: list[Dimension], params: Mapping[str, Any],
    code_digest: str,
) -> str:  # fmt: skip
    """SHA-256 of what makes trainings comparable. What is tried counts with its range, not with the value that
    params.yaml has at the moment: the best one is written there, and the sweep is still the same."""
    rest = json.loads(json.dumps({"train": train}))
    for key in ["train.threads", *(one.key for one in dimensions)]:
        section, _, last = key.rpartition(".")
        (read_value(section, rest) or {}).pop(last, None)
    dimension_reprs = [repr(dimension) for dimension in dimensions]
    identity = [fingerprint, rest, dimension_reprs, params["metric"], params["seed"], code_digest]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_study(folder: Path, params: Mapping[str, Any], max_epochs: int) -> Study:
    """The study in a folder, made if there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').resolve()}", study_name="sweep", load_if_exists=True,
        direction=METRICS[params["metric"]], pruner=_make_pruner(params, max_epochs),
    )  # fmt: skip
    # the same seed would draw for the second half of a sweep that was killed what it drew for the first
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
    """Ask for the trainings of a sweep that was killed once more, or in a new study first for what params.yaml
    says at present; returns how many were under way."""
    from optuna.trial import TrialState

    stale = study.get_trials(states=(TrialState.RUNNING,))
    for trial in stale:
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params.keys() == {one.key for one in dimensions}:
            study.enqueue_trial(
                trial.params, user_attrs={FOLDER_ATTR: trial.user_attrs.get(FOLDER_ATTR, trial.number)}
            )
    if not study.trials:
        known = {one.key: one.to_internal(present[one.key]) for one in dimensions}
        if None not in known.values():
            study.enqueue_trial(known)
    return len(stale)


def num_finished(study: Study) -> int:
    """Trainings that came to an end of their own: with a value, pruned, or with an error."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return sum(1 for trial in ended if trial.state != TrialState.FAIL or ERROR_ATTR in trial.user_attrs)
