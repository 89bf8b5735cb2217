"""The search loop of a sweep, its MLflow run, and the best values for params.yaml."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.notifications import console
from flows.orchestration import crash_recovery, subprocesses
from flows.project import params_yaml
from flows.project.paths import CACHE, PARAMS
from flows.project.project import Project
from flows.promotion import model_registry
from flows.sweeps import study as studies
from flows.sweeps import trial as sweeps_trial
from flows.sweeps.study import Dimension, Values
from flows.sweeps.trial import TrialProcess
from imageset.exceptions import UserError
from imageset.params import load_section
from imageset.stage_code import digest_stage_code
from imageset.utils.progress import Progress, SilentProgress
from imageset.utils.text import escape_markdown, format_count
from lightning_modules.project_code.dvc_deps import update_dvc_yaml
from lightning_modules.project_code.modules import copy_modules, find_project_modules, hash_files
from lightning_modules.tracking import tags as tracking_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study
    from optuna.trial import FrozenTrial

    from lightning_modules.tracking.run import TrackedRun


logger = console.get_logger(__name__)

SWEEPS_DIR = CACHE / "sweep"
POLL_S = 0.5  # pause between two polls of the trainings
MAX_FAILED = 3  # the sweep ends if as many trainings fail before the first one is complete
NUM_SHOWN = 10  # trainings in the table


@dataclass(frozen=True)
class SweepResult:
    """The outcome of a sweep.

    Attributes:
        run_id: MLflow run of the sweep itself.
        best_run: MLflow run of the best training.
        metric: name of the metric that was optimized.
        value: the best training's value of the metric.
        values: the best training's values of the space, by key.
        changed: the keys of params.yaml that now hold another value.
        folder: where the study and the plots are.
        num_complete, num_pruned, num_failed: numbers of trainings.
    """

    run_id: str
    best_run: str
    metric: str
    value: float
    values: Values
    changed: list[str]
    folder: Path
    num_complete: int
    num_pruned: int
    num_failed: int

    def __str__(self) -> str:
        ended = (
            f"{_format_num_complete(self.num_complete)}, {self.num_pruned:,} pruned, {self.num_failed:,} failed"
        )
        changes = (
            f"changed in params.yaml: {', '.join(self.changed)}"
            if self.changed
            else "params.yaml holds these values already"
        )
        return (
            f"{ended}; best {self.metric} {self.value:.4f} with {format_values(self.values)} "
            f"(run {self.best_run})\n"
            f"{changes}; `dvc repro` trains it again\n"
            f"{self.folder / 'parallel_coordinates.png'}, history.png; MLflow run {self.run_id}"
        )


def format_values(values: Mapping[str, Any]) -> str:
    """Return values in one line, each by the last part of its key or, if that is ambiguous, by the whole key."""
    ends = [key.rpartition(".")[2] for key in values]
    names = [end if ends.count(end) == 1 else key for key, end in zip(values, ends, strict=True)]
    return ", ".join(f"{name} {value}" for name, value in zip(names, values.values(), strict=True))


def run_sweep(project: Project, params: Mapping[str, Any]) -> tuple[SweepResult, str]:
    """Run or resume a sweep, without Prefect, and write the best values to params.yaml.

    Args:
        project: folder of the project.
        params: the section `sweep`, perhaps with options in place of some values.

    Returns:
        The result, and a table of the best trainings in Markdown.

    Raises:
        UserError: a key or a range is wrong, there is no dataset, or no training succeeds.
    """
    where = f"{project / PARAMS}: sweep"
    studies.check_sweep_params(params, where)
    document = {"train": load_section(project / PARAMS, "train")}
    dimensions = studies.parse_space(params, document["train"], where)
    name, fingerprint = project.read_dataset_name(), project.read_dataset_field("fingerprint")
    code_digest = digest_code(project, document["train"], dimensions, params["space"])
    key = studies.compute_study_key(str(fingerprint), document["train"], dimensions, params, code_digest)
    folder = project / SWEEPS_DIR / f"{name}-{key[:12]}"
    study = studies.open_study(folder, params, int(document["train"]["trainer"]["max_epochs"]))
    client = model_registry.connect_registry(project)
    close_killed_sweeps(client, project / SWEEPS_DIR, folder)
    run = _open_sweep_run(client, project, name, study, params, folder)
    try:
        _SearchLoop(project, params, document, dimensions, study, run, folder).run()
        best, changed = _write_best_params(project, study)
        table = _log_sweep_artifacts(run, study, params["metric"], dimensions, folder)
        run.close("FINISHED")
    except BaseException as error:
        run.close("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    counts = [
        sum(1 for trial in study.trials if _classify_trial(trial) == state)
        for state in ("complete", "pruned", "failed")
    ]
    values = best.user_attrs[studies.VALUES_ATTR]
    assert best.value is not None
    result = SweepResult(
        run.run_id,
        best.user_attrs[studies.RUN_ATTR],
        params["metric"],
        best.value,
        values,
        changed,
        folder,
        *counts,
    )
    return result, table


def digest_code(
    project: Project, train: Mapping[str, Any], dimensions: list[Dimension], space: Mapping[str, Any]
) -> str:
    """Return the digest of the code that the trainings run: Convoy's, and the project's own modules.

    Args:
        project: folder of the project.
        train: the section `train`.
        dimensions: the space; the present values of its keys do not count.
        space: the values that the space allows, as in params.yaml.
    """
    modules = find_project_modules([studies.drop_varied(train, dimensions), space], project.folder)
    return digest_stage_code("train") + hash_files(copy_modules(modules))


class _SearchLoop:
    """The loop that starts trainings in free slots, reports their epochs to the study, and prunes some of them."""

    def __init__(
        self, project: Project, params: Mapping[str, Any], document: dict[str, Any], dimensions: list[Dimension],
        study: Study, run: TrackedRun, folder: Path,
    ) -> None:  # fmt: skip
        self.project, self.params, self.document, self.dimensions = project, params, document, dimensions
        self.study, self.sweep_run, self.folder, self.metric = study, run, folder, str(params["metric"])
        self.running: list[TrialProcess] = []
        uses_gpu = document["train"]["trainer"].get("accelerator") != "cpu"
        self.gpus = sweeps_trial.list_visible_gpus() if uses_gpu else []
        self.threads, self.slots = _plan_slots(
            params["processes"], len(self.gpus), document["train"].get("threads")
        )

    def run(self) -> None:
        """Train until there are `trials` trainings or the time is over.

        Raises:
            UserError: the first trainings all failed.
        """
        present = {
            dimension.key: studies.read_value(dimension.key, self.document) for dimension in self.dimensions
        }
        num_resumed = studies.resume_study(self.study, self.dimensions, present)
        num_done, num_wanted = studies.count_finished(self.study), self.params["trials"]
        before = f", {num_done:,} of them done before" if num_done else ""
        before += f", {num_resumed:,} resumed" if num_resumed else ""
        if num_done < num_wanted:
            logger.info("sweep: %s, %s at once%s", format_count(num_wanted, "training"), len(self.slots), before)
        limit_min = self.params["timeout_min"]
        deadline = None if limit_min is None else time.monotonic() + 60 * limit_min
        progress = Progress("sweep", unit="trainings") if console.shows_bars() else SilentProgress()
        progress.begin(num_wanted, done=num_done)
        try:
            while True:
                in_time = deadline is None or time.monotonic() < deadline
                while in_time and self._find_free_slots() and self._count_started() < num_wanted:
                    self._start_next()
                if not self.running:
                    return
                time.sleep(POLL_S)
                num_running = len(self.running)
                self.running = [training for training in self.running if not self._poll(training)]
                progress.advance(num_running - len(self.running))
        finally:
            progress.end()
            for training in self.running:  # all get the signal before the first wait
                training.process.terminate()
            for training in self.running:
                subprocesses.stop_process(training.process)

    def _count_started(self) -> int:
        return studies.count_finished(self.study) + len(self.running)

    def _find_free_slots(self) -> list[int]:
        return sorted(set(self.slots) - {training.slot for training in self.running})

    def _start_next(self) -> None:
        trial = self.study.ask()
        values = {dimension.key: dimension.suggest(trial) for dimension in self.dimensions}
        trial.set_user_attr(studies.VALUES_ATTR, values)
        number = trial.user_attrs.get(studies.FOLDER_ATTR, trial.number)
        trial.set_user_attr(studies.FOLDER_ATTR, number)
        if (earlier := self._find_duplicate(values)) is not None:
            trial.set_user_attr(studies.RUN_ATTR, earlier.user_attrs[studies.RUN_ATTR])
            self.study.tell(trial, earlier.value)
            logger.info(
                "sweep: training %s: same as training %s: %s", trial.number, earlier.number, format_values(values)
            )
            return
        document = json.loads(json.dumps(self.document))
        for key, value in values.items():
            studies.set_value(key, value, document)
        if self.threads is not None:
            studies.set_value("train.threads", self.threads, document)
            trial.set_user_attr("threads", self.threads)
        slot = self._find_free_slots()[0]
        variables = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        folder = self.folder / f"{number:04d}"
        self.running.append(
            sweeps_trial.start_trial(trial, folder, self.project, document, self.sweep_run.run_id, slot, variables)
        )

    def _find_duplicate(self, values: Values) -> FrozenTrial | None:
        """Return a complete training with the same values; a second one would give the same model, bit for bit."""
        complete = (trial for trial in self.study.trials if _classify_trial(trial) == "complete")
        return next((trial for trial in complete if trial.user_attrs[studies.VALUES_ATTR] == values), None)

    def _poll(self, training: TrialProcess) -> bool:
        """Report new epochs to the study; return whether the training has ended."""
        status = training.process.poll()
        for epoch, value in training.read_new_epochs(self.sweep_run.client, self.metric):
            training.trial.report(value, epoch)
        if status is None:
            if training.last_reported_epoch < 0 or not training.trial.should_prune():
                return False
            training.pruned_after = training.last_reported_epoch + 1
            subprocesses.stop_process(training.process)  # with SIGTERM: the training closes its MLflow run
            self._prune(training)
        elif status == 0:
            self._complete(training)
        else:
            self._fail(training, status)
        return True

    def _prune(self, training: TrialProcess) -> None:
        from optuna.trial import TrialState

        if training.run_id:
            training.trial.set_user_attr(studies.RUN_ATTR, training.run_id)
            outcome = f"after epoch {training.pruned_after}"
            self.sweep_run.client.set_tag(training.run_id, tracking_tags.PRUNED_TAG, outcome)
        self.study.tell(training.trial, state=TrialState.PRUNED)
        sweeps_trial.remove_trial_folder(training.folder)
        self._log(training, f"pruned after epoch {training.pruned_after}")

    def _complete(self, training: TrialProcess) -> None:
        run_id, metrics = sweeps_trial.read_trial_result(training.folder)
        if self.metric not in metrics:
            raise UserError(
                f"sweep: {self.metric} is not measured on this dataset; give one of {', '.join(metrics)}"
            )
        training.trial.set_user_attr(studies.RUN_ATTR, run_id)
        self.study.tell(training.trial, metrics[self.metric])
        sweeps_trial.remove_trial_folder(training.folder)
        best = {self.metric: metrics[self.metric], f"best_{self.metric}": self.study.best_value}
        self.sweep_run.log_metrics(best, training.trial.number)
        self._log(training, f"{self.metric} {metrics[self.metric]:.4f}")

    def _fail(self, training: TrialProcess, status: int) -> None:
        from optuna.trial import TrialState

        error = training.read_error()
        training.trial.set_user_attr(studies.ERROR_ATTR, error)
        self.study.tell(training.trial, state=TrialState.FAIL)
        sweeps_trial.remove_trial_folder(training.folder)
        self._log(training, f"failed with status {status}: {error}")
        states = [_classify_trial(trial) for trial in self.study.trials]
        if "complete" not in states and states.count("failed") >= min(MAX_FAILED, self.params["trials"]):
            raise UserError(f"every training failed: {error}; see {self.folder}/*.log")

    def _log(self, training: TrialProcess, outcome: str) -> None:
        values = training.trial.user_attrs[studies.VALUES_ATTR]
        logger.info("sweep: training %s: %s: %s", training.trial.number, outcome, format_values(values))


def _plan_slots(wanted: int | str, num_gpus: int, threads: int | None) -> tuple[int | None, range]:
    """Return the CPU threads of each training (None: as in params.yaml) and the slots for trainings."""
    from imageset.executors.base import count_cpus

    num = int(wanted) if wanted != "auto" else num_gpus or count_cpus()
    share = max(1, count_cpus() // num)
    return (None if num_gpus or threads is not None or share == count_cpus() else share), range(num)


def _classify_trial(trial: FrozenTrial) -> str:
    """Return complete, pruned, failed, or other: running, waiting, or cut off when a sweep was killed."""
    name = trial.state.name
    if name == "FAIL":
        return "failed" if studies.ERROR_ATTR in trial.user_attrs else "other"
    return {"COMPLETE": "complete", "PRUNED": "pruned"}.get(name, "other")


# ---- the MLflow run and the result ------------------------------------------------------------------------------


def _open_sweep_run(
    client: MlflowClient, project: Project, name: str, study: Study, params: Mapping[str, Any], folder: Path
) -> TrackedRun:
    """Open the sweep's own MLflow run; a killed sweep resumes its run."""
    from imageset.utils.atomic_write import write_text
    from lightning_modules.tracking.client import ensure_experiment
    from lightning_modules.tracking.run import TrackedRun

    earlier = study.user_attrs.get(studies.PARENT_ATTR)
    title = f"sweep {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    tags = {tracking_tags.DATASET_TAG: name, tracking_tags.SWEEP_TAG: folder.name}
    run = TrackedRun.open(client, ensure_experiment(client, name, project.folder), earlier, title, tags)
    if run.run_id != earlier:
        study.set_user_attr(studies.PARENT_ATTR, run.run_id)
        run.log_params({"sweep": {key: value for key, value in params.items() if key != "space"}})
        run.log_params({"space": {key: json.dumps(value) for key, value in params["space"].items()}})
    write_text(folder / "run_id", run.run_id)
    crash_recovery.record_mlflow_run(project, run.run_id)
    return run


def close_killed_sweeps(client: MlflowClient, sweeps: Path, current: Path) -> None:
    """Mark runs of other sweeps that MLflow still shows as running as KILLED.

    A project runs one sweep at a time.

    Args:
        client: MLflow.
        sweeps: the folder of all sweeps of the project.
        current: the folder of the sweep that runs.
    """
    from mlflow.exceptions import MlflowException

    for path in sweeps.glob("*/run_id"):
        run_id = path.read_text(encoding="utf-8")
        try:
            if path.parent != current and client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "KILLED")
        except MlflowException:  # it was deleted
            continue


def _write_best_params(project: Project, study: Study) -> tuple[FrozenTrial, list[str]]:
    """Write the best training's values to params.yaml; return that training and the keys that changed."""
    if not any(_classify_trial(trial) == "complete" for trial in study.trials):
        raise UserError("sweep: no training is complete, so there is no best one; give it more time or trials")
    best = study.best_trial
    values = dict(best.user_attrs[studies.VALUES_ATTR])
    if "threads" in best.user_attrs:
        values["train.threads"] = best.user_attrs["threads"]
    path = project / PARAMS
    document = params_yaml.read_commented_yaml(path)
    changed = [
        key for key, value in values.items() if studies.set_value(key, params_yaml.to_yaml_value(value), document)
    ]
    if changed:
        params_yaml.write_commented_yaml(path, document)
    for line in update_dvc_yaml(project.folder):
        logger.info(line)
    return best, changed


def _log_sweep_artifacts(
    run: TrackedRun, study: Study, metric: str, dimensions: list[Dimension], folder: Path
) -> str:
    """Write the plots and the table to the sweep's folder and its MLflow run; return the table in Markdown."""
    from flows.sweeps.plots import plot_optimization_history, plot_parallel_coordinates
    from imageset.utils.atomic_write import write_bytes

    ended = [trial for trial in study.trials if _classify_trial(trial) in ("complete", "pruned")]
    best = study.best_trial
    write_bytes(
        folder / "parallel_coordinates.png", plot_parallel_coordinates(ended, dimensions, metric, best.number)
    )
    write_bytes(
        folder / "history.png", plot_optimization_history(ended, metric, study.direction.name == "MINIMIZE")
    )
    table = _render_sweep_markdown(ended, metric, study.direction.name == "MINIMIZE", dimensions)
    write_bytes(folder / "sweep.md", table.encode())
    for name in ("parallel_coordinates.png", "history.png", "sweep.md"):
        run.client.log_artifact(run.run_id, str(folder / name), tracking_tags.SWEEP_FOLDER)
    run.client.set_tag(run.run_id, tracking_tags.BEST_RUN_TAG, best.user_attrs[studies.RUN_ATTR])
    run.log_metrics({f"best_{metric}": study.best_value}, len(study.trials))
    return table


def _render_sweep_markdown(
    ended: list[FrozenTrial], metric: str, minimize: bool, dimensions: list[Dimension]
) -> str:
    complete = [trial for trial in ended if _classify_trial(trial) == "complete"]
    complete.sort(key=lambda trial: (trial.value or 0) if minimize else -(trial.value or 0))
    heads = ["training", metric, *(dimension.key.removeprefix("train.") for dimension in dimensions), "MLflow run"]
    lines = ["# Sweep", "", f"| {' | '.join(map(escape_markdown, heads))} |", f"|{' --- |' * len(heads)}"]
    for trial in complete[:NUM_SHOWN]:
        cells = [
            trial.number,
            f"{trial.value:.4f}",
            *trial.user_attrs[studies.VALUES_ATTR].values(),
            trial.user_attrs[studies.RUN_ATTR],
        ]
        lines.append(f"| {' | '.join(escape_markdown(str(cell)) for cell in cells)} |")
    num_pruned = sum(1 for trial in ended if _classify_trial(trial) == "pruned")
    return "\n".join([*lines, "", f"{_format_num_complete(len(complete))}, {num_pruned:,} pruned."]) + "\n"


def _format_num_complete(num: int) -> str:
    return f"{format_count(num, 'training')} complete"
