"""The search loop and its MLflow run."""

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
from flows.project.paths import CACHE, PARAMS, read_dataset_field, read_dataset_name
from flows.promotion import model_registry
from flows.sweeps import study as studies
from flows.sweeps import trial as sweeps_trial
from flows.sweeps.study import Dimension, Values
from flows.sweeps.trial import TrialProcess
from imageset.exceptions import UserError
from imageset.params import load_section
from imageset.stage_code import digest_stage_code
from imageset.utils.text import format_count
from lightning_modules.tracking import tags as tracking_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study
    from optuna.trial import FrozenTrial

    from lightning_modules.tracking.run import TrackedRun


logger = console.get_logger(__name__)

SWEEPS_DIR = CACHE / "sweep"
POLL_S = 0.5  # between two looks at the trainings
MAX_FAILED = 3  # trainings that may fail before one ends well
NUM_SHOWN = 10  # trainings in the table


@dataclass(frozen=True)
class SweepResult:
    """What came of a sweep.

    Attributes:
        run_id: the sweep's own run in MLflow; best_run: that of the best training.
        changed: the keys of params.yaml that hold another value now.
        folder: where its pictures lie.
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
        said = (
            f"changed in params.yaml: {', '.join(self.changed)}" if self.changed else "params.yaml says so already"
        )
        return (
            f"{ended}; best {self.metric} {self.value:.4f} with {format_values(self.values)} (run {self.best_run})\n"
            f"{said}; `dvc repro` trains it again\n"
            f"{self.folder / 'parallel_coordinates.png'}, history.png; MLflow run {self.run_id}"
        )


def format_values(values: Mapping[str, Any]) -> str:
    """Values by the ends of their keys, as far as those tell them apart."""
    ends = [key.rpartition(".")[2] for key in values]
    names = [end if ends.count(end) == 1 else key for key, end in zip(values, ends, strict=True)]
    return ", ".join(f"{name} {value}" for name, value in zip(names, values.values(), strict=True))


def run_sweep(project: Path, params: Mapping[str, Any]) -> tuple[SweepResult, str]:
    """Train, choose, write; without Prefect. Returns a table in Markdown too."""
    where = f"{project / PARAMS}: sweep"
    studies.check_sweep_params(params, where)
    document = {"train": load_section(project / PARAMS, "train")}
    dimensions = studies.parse_space(params, document["train"], where)
    name, fingerprint = read_dataset_name(project), read_dataset_field(project, "fingerprint")
    key = studies.compute_study_key(
        str(fingerprint), document["train"], dimensions, params, digest_stage_code("train")
    )
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
        sum(1 for one in study.trials if _classify_trial(one) == state)
        for state in ("complete", "pruned", "failed")
    ]
    values = best.user_attrs[studies.VALUES_ATTR]
    assert best.value is not None
    swept = SweepResult(
        run.run_id,
        best.user_attrs[studies.RUN_ATTR],
        params["metric"],
        best.value,
        values,
        changed,
        folder,
        *counts,
    )
    return swept, table


class _SearchLoop:
    """The loop: begins trainings where there are places, tells the study of their epochs, ends some early."""

    def __init__(
        self, project: Path, params: Mapping[str, Any], document: dict[str, Any], dimensions: list[Dimension],
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
        """Until there are as many trainings as wanted, or the time is over.

        Raises:
            UserError: the first trainings all failed.
        """
        present = {one.key: studies.read_value(one.key, self.document) for one in self.dimensions}
        again = studies.resume_study(self.study, self.dimensions, present)
        done, wanted = studies.num_finished(self.study), self.params["trials"]
        before = f", {done:,} of them done before" if done else ""
        before += f", {again:,} go on" if again else ""
        if done < wanted:
            logger.info("sweep: %s, %s at once%s", format_count(wanted, "training"), len(self.slots), before)
        limit_min = self.params["timeout_min"]
        deadline = None if limit_min is None else time.monotonic() + 60 * limit_min
        try:
            while True:
                in_time = deadline is None or time.monotonic() < deadline
                while in_time and self._find_free_slots() and studies.num_finished(self.study) + len(self.running) < wanted:
                    self._start_next()
                if not self.running:
                    return
                time.sleep(POLL_S)
                self.running = [one for one in self.running if not self._poll(one)]
        finally:
            for one in self.running:  # all are asked before one is waited for
                one.process.terminate()
            for one in self.running:
                subprocesses.stop_process(one.process)

    def _find_free_slots(self) -> list[int]:
        return sorted(set(self.slots) - {one.slot for one in self.running})

    def _start_next(self) -> None:
        trial = self.study.ask()
        values = {one.key: one.suggest(trial) for one in self.dimensions}
        trial.set_user_attr(studies.VALUES_ATTR, values)
        number = trial.user_attrs.get(studies.FOLDER_ATTR, trial.number)
        trial.set_user_attr(studies.FOLDER_ATTR, number)
        if (same := self._find_duplicate(values)) is not None:
            trial.set_user_attr(studies.RUN_ATTR, same.user_attrs[studies.RUN_ATTR])
            self.study.tell(trial, same.value)
            logger.info("sweep: training %s: as training %s: %s", trial.number, same.number, format_values(values))
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
        """A training that ended well with just these values: a second one would be the same, to the last bit."""
        done = (one for one in self.study.trials if _classify_trial(one) == "complete")
        return next((one for one in done if one.user_attrs[studies.VALUES_ATTR] == values), None)

    def _poll(self, one: TrialProcess) -> bool:
        status = one.process.poll()
        for epoch, value in one.read_new_epochs(self.sweep_run.client, self.metric):
            one.trial.report(value, epoch)
        if status is None:
            if one.last_reported_epoch < 0 or not one.trial.should_prune():
                return False
            one.pruned_after = one.last_reported_epoch + 1
            subprocesses.stop_process(one.process)  # by SIGTERM: it closes its MLflow run
            self._prune(one)
        elif status == 0:
            self._complete(one)
        else:
            self._fail(one, status)
        return True

    def _prune(self, one: TrialProcess) -> None:
        from optuna.trial import TrialState

        if one.run_id:
            one.trial.set_user_attr(studies.RUN_ATTR, one.run_id)
            self.sweep_run.client.set_tag(one.run_id, tracking_tags.PRUNED_TAG, f"after epoch {one.pruned_after}")
        self.study.tell(one.trial, state=TrialState.PRUNED)
        sweeps_trial.remove_trial_folder(one.folder)
        self._log(one, f"pruned after epoch {one.pruned_after}")

    def _complete(self, one: TrialProcess) -> None:
        run_id, metrics = sweeps_trial.read_trial_result(one.folder)
        if self.metric not in metrics:
            raise UserError(
                f"sweep: {self.metric} is not measured on this dataset; there are {', '.join(metrics)}"
            )
        one.trial.set_user_attr(studies.RUN_ATTR, run_id)
        self.study.tell(one.trial, metrics[self.metric])
        sweeps_trial.remove_trial_folder(one.folder)
        best = {self.metric: metrics[self.metric], f"best_{self.metric}": self.study.best_value}
        self.sweep_run.log_metrics(best, one.trial.number)
        self._log(one, f"{self.metric} {metrics[self.metric]:.4f}")

    def _fail(self, one: TrialProcess, status: int) -> None:
        from optuna.trial import TrialState

        error = one.read_error()
        one.trial.set_user_attr(studies.ERROR_ATTR, error)
        self.study.tell(one.trial, state=TrialState.FAIL)
        sweeps_trial.remove_trial_folder(one.folder)
        self._log(one, f"failed with status {status}: {error}")
        states = [_classify_trial(trial) for trial in self.study.trials]
        if "complete" not in states and states.count("failed") >= min(MAX_FAILED, self.params["trials"]):
            raise UserError(f"no training ended well: {error}; what they said: {self.folder}/*.log")

    def _log(self, one: TrialProcess, what: str) -> None:
        values = one.trial.user_attrs[studies.VALUES_ATTR]
        logger.info("sweep: training %s: %s: %s", one.trial.number, what, format_values(values))


def _plan_slots(wanted: int | str, num_gpus: int, threads: int | None) -> tuple[int | None, range]:
    """Threads of a training (None: as params.yaml says) and the places for trainings at the same time."""
    from imageset.executors.base import count_cpus

    num = int(wanted) if wanted != "auto" else num_gpus or count_cpus()
    share = max(1, count_cpus() // num)
    return (None if num_gpus or threads is not None or share == count_cpus() else share), range(num)


def _classify_trial(trial: FrozenTrial) -> str:
    """complete, pruned, failed, or other: it runs, waits, or was under way when a sweep was killed."""
    name = trial.state.name
    if name == "FAIL":
        return "failed" if studies.ERROR_ATTR in trial.user_attrs else "other"
    return {"COMPLETE": "complete", "PRUNED": "pruned"}.get(name, "other")


# ---- what stays of it ------------------------------------------------------------------------------------------


def _open_sweep_run(
    client: MlflowClient, project: Path, name: str, study: Study, params: Mapping[str, Any], folder: Path
) -> TrackedRun:
    """The sweep's own run; that of a sweep that was killed goes on."""
    from imageset.utils.atomic_write import write_text
    from lightning_modules.tracking.client import ensure_experiment
    from lightning_modules.tracking.run import TrackedRun

    earlier = study.user_attrs.get(studies.PARENT_ATTR)
    title = f"sweep {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    tags = {tracking_tags.DATASET_TAG: name, tracking_tags.SWEEP_TAG: folder.name}
    run = TrackedRun.open(client, ensure_experiment(client, name, project), earlier, title, tags)
    if run.run_id != earlier:
        study.set_user_attr(studies.PARENT_ATTR, run.run_id)
        run.log_params({"sweep": {key: value for key, value in params.items() if key != "space"}})
        run.log_params({"space": {key: json.dumps(value) for key, value in params["space"].items()}})
    write_text(folder / "run_id", run.run_id)
    crash_recovery.record_mlflow_run(project, run.run_id)
    return run


def close_killed_sweeps(client: MlflowClient, sweeps: Path, current: Path) -> None:
    """Say KILLED of other sweeps that MLflow takes for running; only one runs in a project."""
    from mlflow.exceptions import MlflowException

    for note in sweeps.glob("*/run_id"):
        run_id = note.read_text(encoding="utf-8")
        try:
            if note.parent != current and client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "KILLED")
        except MlflowException:  # it was deleted
            continue


def _write_best_params(project: Path, study: Study) -> tuple[FrozenTrial, list[str]]:
    """Put the best training's values into params.yaml; returns it and the keys that changed."""
    if not any(_classify_trial(one) == "complete" for one in study.trials):
        raise UserError("sweep: no training came to its end, so there is no best one; give it more time or trials")
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
    return best, changed


def _log_sweep_artifacts(
    run: TrackedRun, study: Study, metric: str, dimensions: list[Dimension], folder: Path
) -> str:
    """The pictures and the table, in the sweep's folder and in its MLflow run; returns the table as Markdown."""
    from flows.sweeps.plots import plot_optimization_history, plot_parallel_coordinates
    from imageset.utils.atomic_write import write_bytes

    ended = [one for one in study.trials if _classify_trial(one) in ("complete", "pruned")]
    best = study.best_trial
    write_bytes(
        folder / "parallel_coordinates.png", plot_parallel_coordinates(ended, dimensions, metric, best.number)
    )
    write_bytes(
        folder / "history.png", plot_optimization_history(ended, metric, study.direction.name == "MINIMIZE")
    )
    page = _render_sweep_markdown(ended, metric, study.direction.name == "MINIMIZE", dimensions)
    write_bytes(folder / "sweep.md", page.encode())
    for name in ("parallel_coordinates.png", "history.png", "sweep.md"):
        run.client.log_artifact(run.run_id, str(folder / name), tracking_tags.SWEEP_FOLDER)
    run.client.set_tag(run.run_id, tracking_tags.BEST_RUN_TAG, best.user_attrs[studies.RUN_ATTR])
    run.log_metrics({f"best_{metric}": study.best_value}, len(study.trials))
    return page


def _render_sweep_markdown(
    ended: list[FrozenTrial], metric: str, smaller: bool, dimensions: list[Dimension]
) -> str:
    whole = [one for one in ended if _classify_trial(one) == "complete"]
    whole.sort(key=lambda one: (one.value or 0) if smaller else -(one.value or 0))
    heads = ["training", metric, *(one.key.removeprefix("train.") for one in dimensions), "MLflow run"]
    lines = ["# Sweep", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in whole[:NUM_SHOWN]:
        cells = [
            one.number,
            f"{one.value:.4f}",
            *one.user_attrs[studies.VALUES_ATTR].values(),
            one.user_attrs[studies.RUN_ATTR],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    pruned = sum(1 for one in ended if _classify_trial(one) == "pruned")
    return "\n".join([*lines, "", f"{_format_num_complete(len(whole))}, {pruned:,} pruned."]) + "\n"


def _format_num_complete(num: int) -> str:
    return format_count(num, "training to its end", "trainings to their end")
