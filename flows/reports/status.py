"""`convoy status`: what serves, the dataset, the last and the next run, unfinished work, and open problems.

It reads files and tables directly: importing MLflow or Prefect takes seconds.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flows.monitoring import batch_log
from flows.monitoring.retrain_policy import TOO_SMALL, count_drifted_in_a_row
from flows.monitoring.training_news import NOTHING_NEW, describe_labeling, list_new_labels
from flows.notifications import problems as open_problems
from flows.orchestration import crash_recovery, local_databases
from flows.orchestration.local_databases import FlowRunRow, RegisteredModel
from flows.orchestration.prefect_api import (
    PROJECT_TAG_PREFIX,
    ServerAddresses,
    call_prefect_api,
    format_project_tag,
)
from flows.project.paths import CACHE, CLASSIFIER, FULL_CHECK_FILE, NORMALIZED, PARAMS, RAW
from flows.project.project import PIPELINE, Project
from flows.promotion import ledger
from flows.promotion.model_registry import CHAMPION
from flows.reports.history import find_last_change
from flows.reports.registry_agreement import find_disagreements
from flows.versioning.data_folder_check import check_data_folder
from flows.versioning.dvc_repo import find_dvc_folder
from imageset.distribution import get_version
from imageset.exceptions import UserError
from imageset.raw.label_log import read_label_log
from imageset.utils.file_lock import is_locked
from imageset.utils.text import format_count
from imageset.utils.timestamps import format_local_time
from imageset.utils.url_credentials import mask_url
from lightning_modules.tracking import offline_queue
from lightning_modules.tracking.client import get_tracking_uri
from lightning_modules.tracking.local_store.location import get_database_path

TIMEOUT_S = 1.5  # for the answer of a server
FAILED_STATES = ("FAILED", "CRASHED")
EXPLAINED_STATES = (*FAILED_STATES, "CANCELLED")  # whose message says why


LABEL_BY_KEY = {  # the keys of `convoy status --json`, and the labels of the lines that they come from
    "serving": "serving",
    "drift": "drift",
    "data": "data",
    "trained": "trained",
    "last_run": "last run",
    "last_failed_run": "failed",
    "next_run": "next",
    "unfinished_training": "pending",
    "full_check": "checked",
    "servers": "servers",
}
LIST_KEYS = ("serving", "drift")  # with one entry for each model


class StatusLine(NamedTuple):
    """One line of the status: its text, and the same as values; None if it only says that there is nothing."""

    label: str
    text: str
    values: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.label:<10}{self.text}"


@dataclass(frozen=True)
class StatusResult:
    """The status of a project, line by line, and its problems."""

    project: str
    lines: list[StatusLine]
    problems: list[str]

    def __str__(self) -> str:
        problems = [StatusLine("problems", problem) for problem in self.problems or ["none"]]
        return "\n".join(map(str, [*self.lines, *problems]))

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON; all keys are always there, null where there is nothing to report.

        project: its folder. problems: lines of text.
        serving: for each model {model, version, since, reason}.
        drift: for each model the last checked batch {model, version, time, source, num_pictures, moved,
            drifted_in_a_row, retrain, reason}.
        data: {name, raw_version, source, num_pictures, fingerprint, labels: {corrected, added, disputed}}.
        trained: {network, dataset, metrics}.
        last_run, last_failed_run: {flow, name, state, started, ended, message}; next_run: {flow, time}.
        unfinished_training: {is_running, stopped_at}.
        full_check: {time, findings}.
        servers: {mlflow, prefect}, addresses.
        """
        found: dict[str, Any] = {"project": self.project}
        for key, label in LABEL_BY_KEY.items():
            values = [line.values for line in self.lines if line.label == label and line.values is not None]
            found[key] = values if key in LIST_KEYS else next(iter(values), None)
        return found | {"problems": self.problems}


def report_status(project: Project) -> str:
    """Return the lines that `convoy status` prints."""
    return str(read_status(project))


def read_status(project: Project) -> StatusResult:
    """Read the status of a project."""
    problems: list[str] = []
    name = find_name(project)
    lines = [
        *report_serving(project, name, problems),
        *report_drift(project, problems),
        *report_data(project, problems),
        *report_training(project, problems),
        *report_runs(project, name, problems),
        *report_unfinished_work(project, problems),
        *report_full_check(project, problems),
    ]
    report_params(project, problems)
    report_data_folder(project, problems)
    problems += report_undelivered(project)
    lines.append(report_servers(project))
    return StatusResult(str(project.folder.resolve()), lines, problems)


def report_data_folder(project: Project, problems: list[str]) -> None:
    """Add why DVC cannot version the data of an initialized project, such as a project without git."""
    if find_dvc_folder(project).is_dir() and (project / PIPELINE).is_file():
        try:
            check_data_folder(project)
        except UserError as error:
            problems.append(str(error))


def report_servers(project: Project) -> StatusLine:
    """Return the servers of `convoy up`, else those that environment variables name."""
    if addresses := ServerAddresses.load(project):
        servers: dict[str, str | None] = {"mlflow": addresses.mlflow, "prefect": addresses.prefect}
    else:
        variables = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": "PREFECT_API_URL"}
        servers = {key: mask_url(os.environ.get(name) or "") or None for key, name in variables.items()}
    names = {"mlflow": "MLflow", "prefect": "Prefect"}
    text = ", ".join(f"{names[key]} {address}" for key, address in servers.items() if address)
    return StatusLine("servers", text or "not running; start them with `convoy up`", servers if text else None)


# ---- the model --------------------------------------------------------------------------------------


def report_serving(project: Project, name: str | None, problems: list[str]) -> Iterator[StatusLine]:
    """Yield one line for each registered model that has a champion."""
    entries, is_ledger_known = [], True
    try:
        entries = ledger.read_ledger(project)
    except UserError as error:
        problems.append(str(error))
        is_ledger_known = False
    num_problems = len(problems)
    database = get_database_path(get_tracking_uri(project.folder))
    models = _select_own_models(read_registered_models(project, problems), entries, name)
    champions = {model: row.aliases[CHAMPION] for model, row in models.items() if CHAMPION in row.aliases}
    is_readable = len(problems) == num_problems
    lost = _find_lost_champions(entries, champions)
    if not champions and not lost:
        yield StatusLine("serving", "nothing; train with `convoy run FOLDER`")
    for model, number in lost.items():
        seen = "MLflow here has no champion of it" if is_readable else "MLflow cannot be read now"
        yield StatusLine("serving", f"{model} version {number} by the ledger; {seen}")
        if is_readable:
            problems.append(
                f"{model}: MLflow here has no champion, the ledger has version {number}; if MLflow does not know "
                "the model, as in a clone, the next `convoy predict`, `promote` or `run` restores it from DVC"
            )
    for model, number in champions.items():
        change = find_last_change(entries, model, datetime.now(UTC))
        since = "; the ledger does not record since when"
        values = {"model": model, "version": number, "since": None, "reason": None}
        if change is not None and change["after"].get(CHAMPION) == number:
            values |= {"since": change["done"], "reason": change["reason"]}
            since = f" since {format_local_time(change['done'])}: {change['reason']}"
        yield StatusLine("serving", f"{model} version {number}{since}", values)
    for model, row in models.items():
        if is_ledger_known:
            problems += find_disagreements(entries, model, row, database)
    for entry in ledger.find_unfinished(entries):
        problems.append(
            f"a decision about {entry['model']} version {entry['version']} is unfinished; "
            "the next promote, predict or rollback completes it"
        )


def _find_lost_champions(entries: list[ledger.LedgerEntry], champions: dict[str, int]) -> dict[str, int]:
    """Return the version of each model that serves by the ledger and has no champion in MLflow."""
    serving = ledger.find_serving(entries)
    return {model: aliases[CHAMPION] for model, aliases in serving.items() if model not in champions}


def report_params(project: Project, problems: list[str]) -> None:
    """Report a params.yaml that cannot be read, or is of another version of Convoy, among the problems."""
    try:
        project.read_name()
        if project.has_other_version():
            problems.append(f"no stage runs: {PARAMS} is of another Convoy than {get_version()}: `convoy upgrade`")
    except UserError as error:
        problems.append(str(error))


def find_name(project: Project) -> str | None:
    """Return the project's name; if params.yaml cannot be read, that of its data, if there is any."""
    try:
        return project.read_name()
    except UserError:
        return project.read_ingested_name()


def _select_own_models(
    models: dict[str, RegisteredModel], entries: list[ledger.LedgerEntry], name: str | None
) -> dict[str, RegisteredModel]:
    """Select the models of a project: of its name, and those that its ledger has decided about."""
    own = {name, *(entry["model"] for entry in entries if "model" in entry)}
    return {name: model for name, model in models.items() if name in own}


def report_drift(project: Project, problems: list[str]) -> Iterator[StatusLine]:
    """Yield the result of the last drift check of each model."""
    try:
        batches, entries = batch_log.read_batches(project), ledger.read_ledger(project)
    except UserError as error:
        if str(batch_log.BATCHES_FILE) in str(error):  # a broken ledger is reported with what serves
            problems.append(str(error))
        return
    last_checked = {batch["model"]: batch for batch in batches if batch["state"] != TOO_SMALL}
    for model, batch in last_checked.items():
        version = batch["version"]
        moved_names = [check["name"] for check in batch["checks"] if check["moved"]]
        moved = ", ".join(moved_names)
        change = find_last_change(entries, model, datetime.now(UTC))
        is_champion = change is None or change["after"].get(CHAMPION) == version
        num_images = format_count(batch["num_pictures"], "picture")
        checked = (
            f"{model} version {version}, {format_local_time(batch['time'])}: {num_images} of {batch['source']}"
        )
        of_version = [other for other in batches if (other["model"], other["version"]) == (model, version)]
        num_in_a_row = count_drifted_in_a_row(of_version)
        values = {
            **{key: batch[key] for key in ("model", "version", "time", "source", "num_pictures")},
            **{"moved": moved_names, "drifted_in_a_row": num_in_a_row},
            **{"retrain": bool(batch.get("retrain")), "reason": batch.get("why")},
        }
        if not moved:
            yield StatusLine("drift", f"{checked} look like the training data", values)
            continue
        in_a_row = "1 drifted batch" if num_in_a_row == 1 else f"{num_in_a_row} drifted batches in a row"
        retrain = "yes" if batch["retrain"] else "no"
        why = NOTHING_NEW if batch["why"].startswith(NOTHING_NEW) else batch["why"]
        text = f"{checked} drifted ({moved}), {in_a_row}; retrain: {retrain}, {why}"
        yield StatusLine("drift", text, values)
        if is_champion:
            problems.append(
                f"new pictures differ from the training data of {model} ({moved}): see {batch['page']}; "
                f"{_describe_next_step(batch, project)}"
            )
    for model, batch in {batch["model"]: batch for batch in batches}.items():
        if batch["state"] == TOO_SMALL and batch["num_pictures"] >= batch["min_pictures"]:
            waiting = f"{model} version {batch['version']}, {format_local_time(batch['time'])}"
            yield StatusLine("drift", f"{waiting}: {batch_log.describe_waiting(batch)}")
    problems += _find_unfinished_retrains(entries)


def _describe_next_step(batch: batch_log.BatchEntry, project: Project) -> str:
    """Return what helps a model whose pictures have drifted: labels, or a training on those that came since."""
    with suppress(UserError):  # a damaged label log is reported with the data
        if labels := list_new_labels(project):
            return (
                f"{format_count(len(labels), 'new label waits', 'new labels wait')}: `convoy run` trains on them"
            )
    return describe_labeling(batch["source"], batch["batch"], batch["num_pictures"])


def _find_unfinished_retrains(entries: list[ledger.LedgerEntry]) -> Iterator[str]:
    finished = {entry["of"] for entry in entries if entry["event"] == ledger.RETRAINED}
    for entry in entries:
        if entry["event"] == ledger.RETRAIN and entry["number"] not in finished:
            yield (
                f"the retrain of {entry['model']} that drift started at {format_local_time(entry['time'])} is "
                "unfinished: unless it is still running, it was killed; `convoy run` resumes it"
            )


def read_registered_models(project: Project, problems: list[str]) -> dict[str, RegisteredModel]:
    """Return the aliases and the tags of each registered model."""
    uri = get_tracking_uri(project.folder)
    try:
        if (database := get_database_path(uri)) is not None:
            return local_databases.read_registered_models(database)
        if uri.startswith(("http://", "https://")):
            return _read_models_from_server(uri)
        from mlflow import MlflowClient

        models = MlflowClient(uri, uri).search_registered_models()
        return {
            model.name: RegisteredModel(
                {alias: int(number) for alias, number in model.aliases.items()}, dict(model.tags)
            )
            for model in models
        }
    except (sqlite3.Error, OSError, ValueError) as error:
        problems.append(_describe_unreadable(uri, error))
        return {}


def _describe_unreadable(uri: str, error: Exception) -> str:
    if "no such table" in str(error):
        return (
            f"{get_database_path(uri)}: is incomplete, since a process was killed while it made the file; the "
            "next `convoy run`, `predict` or `promote` makes it anew if it holds nothing"
        )
    return f"MLflow at {mask_url(uri)} cannot be read ({error}); start it, or set MLFLOW_TRACKING_URI to another"


def _read_models_from_server(uri: str) -> dict[str, RegisteredModel]:
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/search?max_results=1000"
    request = urllib.request.Request(url, headers=build_mlflow_auth_headers())
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        models = json.load(response).get("registered_models", [])
    return {
        model["name"]: RegisteredModel(
            {alias["alias"]: int(alias["version"]) for alias in model.get("aliases", [])},
            {tag["key"]: tag.get("value", "") for tag in model.get("tags", [])},
        )
        for model in sorted(models, key=lambda model: model["name"])
    }


def build_mlflow_auth_headers() -> dict[str, str]:
    """Build the headers that MLflow's client sends to a server with a login, from the same variables."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


# ---- the dataset ------------------------------------------------------------------------------------


def report_data(project: Project, problems: list[str]) -> Iterator[StatusLine]:
    """Yield the dataset that the next training uses, with its version."""
    import yaml

    try:
        pointer = yaml.safe_load((project / f"{RAW}.dvc").read_text(encoding="utf-8"))
        raw_version, meta = str(pointer["outs"][0]["md5"]), pointer.get("meta") or {}
    except FileNotFoundError:
        yield StatusLine("data", "nothing was ingested yet")
        return
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        problems.append(f"{RAW}.dvc: not readable ({error}); run `convoy run FOLDER` again")
        return
    source = meta.get("source", "an unknown source")
    line = f"{meta.get('name', 'data')}, raw version {raw_version[:12]}, from {source}"
    labels = _count_labels(project, problems)
    if any(labels.values()):
        line += "; labels of people: " + ", ".join(f"{num:,} {kind}" for kind, num in labels.items() if num)
    values = {"name": meta.get("name"), "raw_version": raw_version, "source": meta.get("source"),
              "num_pictures": None, "fingerprint": None, "labels": labels}  # fmt: skip
    try:
        manifest = json.loads((project / NORMALIZED / "dataset.json").read_text(encoding="utf-8"))
        num_images = sum(sum(split.values()) for split in manifest["counts"].values())
        fingerprint = manifest["fingerprint"][:12]
        line += f"; normalized: {format_count(num_images, 'picture')}, fingerprint {fingerprint}"
        values |= {"num_pictures": num_images, "fingerprint": manifest["fingerprint"]}
    except FileNotFoundError:
        problems.append(f"{NORMALIZED} is missing; `dvc repro` makes it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{NORMALIZED}/dataset.json: broken ({error}); run `dvc repro -f normalize`")
    yield StatusLine("data", line, values)


def _count_labels(project: Project, problems: list[str]) -> dict[str, int]:
    """Return how many pictures people have corrected, added and disagree about."""
    try:
        log = read_label_log(project / RAW)
    except UserError as error:
        problems.append(str(error))
        return {}
    counts = log.count()
    if counts["disputed"]:
        held_out = format_count(counts["disputed"], "picture is", "pictures are")
        example = next(iter(log.collect_disputes().values()))
        problems.append(
            f"{held_out} held out, since people disagree ({example}); {NORMALIZED}/rejected.parquet names them as "
            "label_dispute, and a table of image_id and label decides: `convoy ingest TABLE --resolve`"
        )
    return counts


def report_training(project: Project, problems: list[str]) -> Iterator[StatusLine]:
    """Yield the network of the last training in this project, with its metrics on validation pictures."""
    try:
        bundle = json.loads((project / CLASSIFIER / "bundle.json").read_text(encoding="utf-8"))["info"]
        network = bundle["network"]
        name = network["init_args"].get("name") or network["class_path"].rpartition(".")[-1]
        metrics = ", ".join(
            f"{key} {value:.4f}" for key, value in bundle["metrics"].items() if key.startswith("val_")
        )
        values = {"network": name, "dataset": bundle["dataset"]["name"], "metrics": dict(bundle["metrics"])}
        yield StatusLine("trained", f"{name} on {values['dataset']}; {metrics}", values)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"{CLASSIFIER}/bundle.json: broken ({error}); run `dvc repro -f train`")


# ---- runs -------------------------------------------------------------------------------------------


def report_runs(project: Project, name: str | None, problems: list[str]) -> Iterator[StatusLine]:
    """Yield the last run, the last failed run and the next scheduled run, as Prefect records them."""
    try:
        runs = [run for run in read_flow_runs(project) if _is_of_project(run, name)]
    except (sqlite3.Error, OSError, ValueError, KeyError) as error:
        problems.append(f"Prefect's runs cannot be read ({error})")
        return
    started = [run for run in runs if run[2] not in ("SCHEDULED", "PENDING")]
    if not started:
        yield StatusLine("last run", "none")
        return
    yield StatusLine("last run", _format_run(started[-1]), _describe_run(started[-1]))
    failed = [run for run in started if run[2] in FAILED_STATES]
    if failed:
        flow, _, _, start, *_ = failed[-1]
        yield StatusLine("failed", _format_run(failed[-1]), _describe_run(failed[-1]))
        later = [run for run in started if run[0] == flow and run[3] > start]
        if not any(run[2] == "COMPLETED" for run in later):
            problems.append(f"{flow} failed last time and has not completed since; run it again")
    scheduled = [run for run in runs if run[2] == "SCHEDULED" and _parse_time(run[3]) > datetime.now(UTC)]
    if scheduled:
        values = {"flow": scheduled[0][0], "time": _format_iso_time(scheduled[0][3])}
        yield StatusLine("next", f"{values['flow']} at {_format_time(scheduled[0][3])}", values)


def read_flow_runs(project: Project) -> list[FlowRunRow]:
    """Return all flow runs, the oldest first: of the server in PREFECT_API_URL, else of the project's database."""
    api = os.environ.get("PREFECT_API_URL")
    if api is None:
        return local_databases.read_flow_runs(local_databases.find_prefect_database(project))
    runs = call_prefect_api(f"{api}/flow_runs/filter", {"sort": "START_TIME_DESC"}, timeout_s=TIMEOUT_S)
    flows = call_prefect_api(f"{api}/flows/filter", {}, timeout_s=TIMEOUT_S)
    names = {flow["id"]: flow["name"] for flow in flows}
    rows = [
        (
            names.get(run["flow_id"], "?"),
            run["name"],
            run["state_type"],
            run["start_time"] or run["expected_start_time"],
            run["end_time"],
            (run["state"] or {}).get("message"),
            json.dumps(run.get("tags") or []),
        )
        for run in runs
        if run["parent_task_run_id"] is None
    ]
    return sorted(rows, key=lambda row: str(row[3]))


def _is_of_project(run: FlowRunRow, name: str | None) -> bool:
    """Return whether a run is of the project of this name; one without a project's tag may be of any."""
    projects = [each for each in json.loads(run[-1] or "[]") if each.startswith(PROJECT_TAG_PREFIX)]
    return format_project_tag(str(name)) in projects or not projects


def _describe_run(run: FlowRunRow) -> dict[str, Any]:
    flow, name, state, start, end, message, _ = run
    return {
        **{"flow": flow, "name": name, "state": state.lower(), "message": message},
        **{"started": _format_iso_time(start), "ended": _format_iso_time(end) if end else None},
    }


def _format_run(run: FlowRunRow) -> str:
    flow, name, state, start, end, message, _ = run
    duration = f", {(_parse_time(end) - _parse_time(start)).total_seconds():.0f} s" if end else ""
    reason = f": {' '.join(message.split())[:200]}" if message and state in EXPLAINED_STATES else ""
    return f"{flow} ({name}) {state.lower()}, started {_format_time(start)}{duration}{reason}"


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _format_iso_time(text: str) -> str:
    return _parse_time(text).isoformat(timespec="seconds")


def _format_time(text: str) -> str:
    return _parse_time(text).astimezone().isoformat(sep=" ", timespec="seconds")


# ---- unfinished work, the full check, undelivered messages ------------------------------------------


def report_unfinished_work(project: Project, problems: list[str]) -> Iterator[StatusLine]:
    """Yield an unfinished training; processes that died and a missing model are problems."""
    for record in crash_recovery.find_dead_processes(project):
        problems.append(
            f"{record} was killed; the next `convoy run`, `predict` ... closes it and resumes where it stopped"
        )
    is_running = any(is_locked(lock) for lock in (project / CACHE / "train").glob("*/lock"))
    stopped_at = max(_find_checkpoint_times(project), default=None)
    if is_running:
        yield StatusLine("pending", "a training, which is running", {"is_running": True, "stopped_at": None})
    elif stopped_at is not None:
        time = datetime.fromtimestamp(stopped_at).astimezone().isoformat(sep=" ", timespec="seconds")
        values = {"is_running": False, "stopped_at": datetime.fromtimestamp(stopped_at, UTC).isoformat()}
        yield StatusLine("pending", f"a training that stopped after {time}; `dvc repro` resumes it", values)
    elif not (project / CLASSIFIER / "run.json").exists() and (project / NORMALIZED / "dataset.json").exists():
        problems.append(f"{CLASSIFIER} is missing; `dvc repro` trains it, `dvc checkout` restores an earlier one")


def _find_checkpoint_times(project: Project) -> Iterator[float]:
    """Yield when each checkpoint was written from which an unfinished training would resume."""
    for path in (project / CACHE / "train").glob("*/last-*.ckpt"):
        with suppress(FileNotFoundError):  # the training has resumed in the meantime
            yield path.stat().st_mtime


def report_full_check(project: Project, problems: list[str]) -> Iterator[StatusLine]:
    """Yield the time and the number of findings of the last full check; each finding is a problem."""
    try:
        last = json.loads((project / FULL_CHECK_FILE).read_text(encoding="utf-8"))
        time, findings = format_local_time(last["time"]), dict(last["findings"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(
            f"{FULL_CHECK_FILE}: not readable ({error}); remove it, the next full check writes it again"
        )
        return
    found = [f"{name}: {finding}" for name, of_check in findings.items() for finding in of_check]
    num_checks, num_problems = format_count(len(findings), "check"), format_count(len(found), "problem")
    values = {"time": last["time"], "findings": findings}
    yield StatusLine("checked", f"{time}: {num_checks}, {num_problems}", values)
    problems += [f"the full check of {time} found: {finding}" for finding in found]


def report_undelivered(project: Project) -> Iterator[str]:
    """Yield what waits to be delivered: runs to MLflow, data to DVC's remote, messages to a webhook."""
    waiting = offline_queue.count_waiting(project.folder)
    if waiting:
        entries = format_count(sum(waiting.values()), "entry waits", "entries wait")
        runs = f"{format_count(len(waiting), 'run')} ({', '.join(waiting)})"
        yield f"{entries} for MLflow's server, of {runs}; `convoy sync` sends them when it is available again"
    for problem in open_problems.list_problems(project):
        times = "" if problem.num_times == 1 else f"{problem.num_times} times "
        yield f"{problem.message} ({times}since {format_local_time(problem.since)})"
