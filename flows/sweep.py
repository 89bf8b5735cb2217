"""Sweep: trainings with other numbers, beside each other, and the best numbers into params.yaml.

Every training is the stage `train` in a folder of its own; what it reaches on the validation split decides, never
the test split. One that promises little is ended early. In MLflow each is a run nested in the sweep's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, task

from flows import console, params_file, processes, recovery, registry, trials, versioning
from flows import study as studies
from flows.pages import publish
from flows.project import CACHE, PARAMS, dataset_name, find_project, said_of_dataset, stage_params
from flows.study import Dimension, Values
from flows.trials import Training
from flows.watched import WATCHED
from imageset.errors import UserError
from imageset.params import load_section
from imageset.words import count

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study
    from optuna.trial import FrozenTrial

    from lightning_modules.tracking import TrackedRun

logger = console.get_logger(__name__)

SWEEPS = CACHE / "sweep"
POLL_S = 0.5  # between two looks at the trainings
MAX_FAILED = 3  # trainings that may fail before one ends well
SHOWN = 10  # trainings in the table


@dataclass(frozen=True)
class Swept:
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
        ended = f"{_to_their_end(self.num_complete)}, {self.num_pruned:,} pruned, {self.num_failed:,} failed"
        said = (
            f"changed in params.yaml: {', '.join(self.changed)}" if self.changed else "params.yaml says so already"
        )
        return (
            f"{ended}; best {self.metric} {self.value:.4f} with {shown(self.values)} (run {self.best_run})\n"
            f"{said}; `dvc repro` trains it again\n"
            f"{self.folder / 'parallel_coordinates.png'}, history.png; MLflow run {self.run_id}"
        )


def shown(values: Mapping[str, Any]) -> str:
    """Values by the ends of their keys, as far as those tell them apart."""
    ends = [key.rpartition(".")[2] for key in values]
    names = [end if ends.count(end) == 1 else key for key, end in zip(values, ends, strict=True)]
    return ", ".join(f"{name} {value}" for name, value in zip(names, values.values(), strict=True))


@flow(**WATCHED)
def sweep(trials: int | None = None, timeout_min: float | None = None, processes: int | None = None) -> Swept:
    """Try what params.yaml: sweep says, and write the best into params.yaml: train.

    Killed and called again, it goes on; called again when all is done, it says what was best.

    Args:
        trials: how many trainings the sweep has in the end; None for params.yaml's.
        timeout_min: begin no further training after so long; None for params.yaml's.
        processes: trainings at once; None for params.yaml's.

    Raises:
        UserError: a wrong key or range, no dataset, or no training that ends well.
        Busy: another run is at work in this project.
    """
    project = find_project()
    params = stage_params(project, "sweep")
    given = {"trials": trials, "timeout_min": timeout_min, "processes": processes}
    params |= {name: value for name, value in given.items() if value is not None}
    with versioning.only_one(project):
        return search(project, params)


@task
def search(project: Path, params: dict[str, Any]) -> Swept:
    """The sweep itself, and its page in Prefect."""
    swept, page = run_sweep(project, params)
    publish(page, "sweep", f"best {swept.metric} {swept.value:.4f}")
    return swept


def run_sweep(project: Path, params: Mapping[str, Any]) -> tuple[Swept, str]:
    """Train, choose, write; without Prefect. Returns a table in Markdown too."""
    where = f"{project / PARAMS}: sweep"
    studies.check(params, where)
    document = {"train": load_section(project / PARAMS, "train")}
    dimensions = studies.space(params, document["train"], where)
    name, fingerprint = dataset_name(project), said_of_dataset(project, "fingerprint")
    key = studies.study_key(str(fingerprint), document["train"], dimensions, params, _code(project))
    folder = project / SWEEPS / f"{name}-{key[:12]}"
    study = studies.open_study(folder, params, int(document["train"]["trainer"]["max_epochs"]))
    client = registry.connect(project)
    close_killed(client, project / SWEEPS, folder)
    run = _open_run(client, project, name, study, params, folder)
    try:
        _Search(project, params, document, dimensions, study, run, folder).go()
        best, changed = _write_best(project, study)
        table = _publish(run, study, params["metric"], dimensions, folder)
        run.close("FINISHED")
    except BaseException as error:
        run.close("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    counts = [sum(1 for one in study.trials if _state(one) == state) for state in ("complete", "pruned", "failed")]
    values = best.user_attrs[studies.VALUES]
    assert best.value is not None
    swept = Swept(
        run.run_id, best.user_attrs[studies.RUN], params["metric"], best.value, values, changed, folder, *counts
    )
    return swept, table


def _code(project: Path) -> dict[str, bytes]:
    """The files that dvc.yaml calls the code of the stage `train`."""
    import yaml

    stages = yaml.safe_load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    files = [str(one) for one in stages["train"]["deps"] if str(one).endswith(".py")]
    return {name: (project / name).read_bytes() for name in files if (project / name).is_file()}


class _Search:
    """The loop: begins trainings where there are places, tells the study of their epochs, ends some early."""

    def __init__(
        self, project: Path, params: Mapping[str, Any], document: dict[str, Any], dimensions: list[Dimension],
        study: Study, run: TrackedRun, folder: Path,
    ) -> None:  # fmt: skip
        self.project, self.params, self.document, self.dimensions = project, params, document, dimensions
        self.study, self.run, self.folder, self.metric = study, run, folder, str(params["metric"])
        self.running: list[Training] = []
        uses_gpu = document["train"]["trainer"].get("accelerator") != "cpu"
        self.gpus = trials.gpus() if uses_gpu else []
        self.threads, self.places = _places(params["processes"], len(self.gpus), document["train"].get("threads"))

    def go(self) -> None:
        """Until there are as many trainings as wanted, or the time is over.

        Raises:
            UserError: the first trainings all failed.
        """
        present = {one.key: studies.value_of(one.key, self.document) for one in self.dimensions}
        again = studies.take_up_again(self.study, self.dimensions, present)
        done, wanted = studies.num_done(self.study), self.params["trials"]
        before = f", {done:,} of them done before" if done else ""
        before += f", {again:,} go on" if again else ""
        if done < wanted:
            logger.info("sweep: %s, %s at once%s", count(wanted, "training"), len(self.places), before)
        limit_min = self.params["timeout_min"]
        deadline = None if limit_min is None else time.monotonic() + 60 * limit_min
        try:
            while True:
                in_time = deadline is None or time.monotonic() < deadline
                while in_time and self._free() and studies.num_done(self.study) + len(self.running) < wanted:
                    self._begin()
                if not self.running:
                    return
                time.sleep(POLL_S)
                self.running = [one for one in self.running if not self._has_ended(one)]
        finally:
            for one in self.running:  # all are asked before one is waited for
                one.process.terminate()
            for one in self.running:
                processes.stop(one.process)

    def _free(self) -> list[int]:
        return sorted(set(self.places) - {one.slot for one in self.running})

    def _begin(self) -> None:
        trial = self.study.ask()
        values = {one.key: one.suggest(trial) for one in self.dimensions}
        trial.set_user_attr(studies.VALUES, values)
        number = trial.user_attrs.get(studies.FOLDER, trial.number)
        trial.set_user_attr(studies.FOLDER, number)
        if (same := self._tried(values)) is not None:
            trial.set_user_attr(studies.RUN, same.user_attrs[studies.RUN])
            self.study.tell(trial, same.value)
            logger.info("sweep: training %s: as training %s: %s", trial.number, same.number, shown(values))
            return
        document = json.loads(json.dumps(self.document))
        for key, value in values.items():
            studies.put(key, value, document)
        if self.threads is not None:
            studies.put("train.threads", self.threads, document)
            trial.set_user_attr("threads", self.threads)
        slot = self._free()[0]
        variables = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        folder = self.folder / f"{number:04d}"
        self.running.append(trials.start(trial, folder, self.project, document, self.run.run_id, slot, variables))

    def _tried(self, values: Values) -> FrozenTrial | None:
        """A training that ended well with just these values: a second one would be the same, to the last bit."""
        done = (one for one in self.study.trials if _state(one) == "complete")
        return next((one for one in done if one.user_attrs[studies.VALUES] == values), None)

    def _has_ended(self, one: Training) -> bool:
        status = one.process.poll()
        for epoch, value in one.new_epochs(self.run.client, self.metric):
            one.trial.report(value, epoch)
        if status is None:
            if one.reported < 0 or not one.trial.should_prune():
                return False
            one.pruned_after = one.reported + 1
            processes.stop(one.process)  # by SIGTERM: it closes its MLflow run
            self._prune(one)
        elif status == 0:
            self._complete(one)
        else:
            self._fail(one, status)
        return True

    def _prune(self, one: Training) -> None:
        from optuna.trial import TrialState

        if one.run_id:
            one.trial.set_user_attr(studies.RUN, one.run_id)
            self.run.client.set_tag(one.run_id, "convoy.pruned", f"after epoch {one.pruned_after}")
        self.study.tell(one.trial, state=TrialState.PRUNED)
        trials.clear(one.folder)
        self._say(one, f"pruned after epoch {one.pruned_after}")

    def _complete(self, one: Training) -> None:
        run_id, metrics = trials.outcome(one.folder)
        if self.metric not in metrics:
            raise UserError(
                f"sweep: {self.metric} is not measured on this dataset; there are {', '.join(metrics)}"
            )
        one.trial.set_user_attr(studies.RUN, run_id)
        self.study.tell(one.trial, metrics[self.metric])
        trials.clear(one.folder)
        best = {self.metric: metrics[self.metric], f"best_{self.metric}": self.study.best_value}
        self.run.log_metrics(best, one.trial.number)
        self._say(one, f"{self.metric} {metrics[self.metric]:.4f}")

    def _fail(self, one: Training, status: int) -> None:
        from optuna.trial import TrialState

        error = one.error()
        one.trial.set_user_attr(studies.ERROR, error)
        self.study.tell(one.trial, state=TrialState.FAIL)
        trials.clear(one.folder)
        self._say(one, f"failed with status {status}: {error}")
        states = [_state(trial) for trial in self.study.trials]
        if "complete" not in states and states.count("failed") >= min(MAX_FAILED, self.params["trials"]):
            raise UserError(f"no training ended well: {error}; what they said: {self.folder}/*.log")

    def _say(self, one: Training, what: str) -> None:
        values = one.trial.user_attrs[studies.VALUES]
        logger.info("sweep: training %s: %s: %s", one.trial.number, what, shown(values))


def _places(wanted: int | str, num_gpus: int, threads: int | None) -> tuple[int | None, range]:
    """Threads of a training (None: as params.yaml says) and the places for trainings at the same time."""
    from imageset.pool import num_cpus

    num = int(wanted) if wanted != "auto" else num_gpus or num_cpus()
    share = max(1, num_cpus() // num)
    return (None if num_gpus or threads is not None or share == num_cpus() else share), range(num)


def _state(trial: FrozenTrial) -> str:
    """complete, pruned, failed, or other: it runs, waits, or was under way when a sweep was killed."""
    name = trial.state.name
    if name == "FAIL":
        return "failed" if studies.ERROR in trial.user_attrs else "other"
    return {"COMPLETE": "complete", "PRUNED": "pruned"}.get(name, "other")


# ---- what stays of it ------------------------------------------------------------------------------------------


def _open_run(
    client: MlflowClient, project: Path, name: str, study: Study, params: Mapping[str, Any], folder: Path
) -> TrackedRun:
    """The sweep's own run; that of a sweep that was killed goes on."""
    from imageset.atomic import write_text
    from lightning_modules.tracking import TrackedRun, experiment_id

    earlier = study.user_attrs.get(studies.PARENT)
    title = f"sweep {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}"
    tags = {"convoy.dataset": name, trials.SWEEP: folder.name}
    run = TrackedRun.open(client, experiment_id(client, name, project), earlier, title, tags)
    if run.run_id != earlier:
        study.set_user_attr(studies.PARENT, run.run_id)
        run.log_params({"sweep": {key: value for key, value in params.items() if key != "space"}})
        run.log_params({"space": {key: json.dumps(value) for key, value in params["space"].items()}})
    write_text(folder / "run_id", run.run_id)
    recovery.note_mlflow_run(project, run.run_id)
    return run


def close_killed(client: MlflowClient, sweeps: Path, but: Path) -> None:
    """Say KILLED of other sweeps that MLflow takes for running; only one runs in a project."""
    from mlflow.exceptions import MlflowException

    for note in sweeps.glob("*/run_id"):
        run_id = note.read_text(encoding="utf-8")
        try:
            if note.parent != but and client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "KILLED")
        except MlflowException:  # it was deleted
            continue


def _write_best(project: Path, study: Study) -> tuple[FrozenTrial, list[str]]:
    """Put the best training's values into params.yaml; returns it and the keys that changed."""
    if not any(_state(one) == "complete" for one in study.trials):
        raise UserError("sweep: no training came to its end, so there is no best one; give it more time or trials")
    best = study.best_trial
    values = dict(best.user_attrs[studies.VALUES])
    if "threads" in best.user_attrs:
        values["train.threads"] = best.user_attrs["threads"]
    path = project / PARAMS
    document = params_file.read(path)
    changed = [key for key, value in values.items() if studies.put(key, params_file.as_read(value), document)]
    if changed:
        params_file.write(path, document)
    return best, changed


def _publish(run: TrackedRun, study: Study, metric: str, dimensions: list[Dimension], folder: Path) -> str:
    """The pictures and the table, in the sweep's folder and in its MLflow run; returns the table as Markdown."""
    from flows.sweep_figures import history_png, parallel_png
    from imageset.atomic import write_bytes

    ended = [one for one in study.trials if _state(one) in ("complete", "pruned")]
    best = study.best_trial
    write_bytes(folder / "parallel_coordinates.png", parallel_png(ended, dimensions, metric, best.number))
    write_bytes(folder / "history.png", history_png(ended, metric, study.direction.name == "MINIMIZE"))
    page = _markdown(ended, metric, study.direction.name == "MINIMIZE", dimensions)
    write_bytes(folder / "sweep.md", page.encode())
    for name in ("parallel_coordinates.png", "history.png", "sweep.md"):
        run.client.log_artifact(run.run_id, str(folder / name), "sweep")
    run.client.set_tag(run.run_id, "convoy.best_run", best.user_attrs[studies.RUN])
    run.log_metrics({f"best_{metric}": study.best_value}, len(study.trials))
    return page


def _markdown(ended: list[FrozenTrial], metric: str, smaller: bool, dimensions: list[Dimension]) -> str:
    whole = [one for one in ended if _state(one) == "complete"]
    whole.sort(key=lambda one: (one.value or 0) if smaller else -(one.value or 0))
    heads = ["training", metric, *(one.key.removeprefix("train.") for one in dimensions), "MLflow run"]
    lines = ["# Sweep", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for one in whole[:SHOWN]:
        cells = [
            one.number,
            f"{one.value:.4f}",
            *one.user_attrs[studies.VALUES].values(),
            one.user_attrs[studies.RUN],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    pruned = sum(1 for one in ended if _state(one) == "pruned")
    return "\n".join([*lines, "", f"{_to_their_end(len(whole))}, {pruned:,} pruned."]) + "\n"


def _to_their_end(num: int) -> str:
    return count(num, "training to its end", "trainings to their end")
