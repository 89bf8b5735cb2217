"""Status: what serves since when, on which data, what ran last, what comes next, what is wrong, how to mend it.

Read from files and tables as they lie there, without MLflow or Prefect, which take seconds to import.
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
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.monitoring import batch_log
from flows.monitoring.retrain_policy import TOO_SMALL, count_drifted_in_a_row
from flows.notifications import problems
from flows.orchestration import crash_recovery
from flows.orchestration.prefect_api import ServerAddresses, call_prefect_api
from flows.project.paths import CACHE, CLASSIFIER, FULL_CHECK_FILE, NORMALIZED, RAW
from flows.promotion import ledger
from flows.reports.history import find_last_change
from imageset.exceptions import UserError
from imageset.utils.text import format_count
from imageset.utils.timestamps import format_local_time
from imageset.utils.url_credentials import mask_url
from lightning_modules.tracking import offline_queue
from lightning_modules.tracking.client import get_tracking_uri

TIMEOUT_S = 1.5  # for a server's answer
RUNS_QUERY = """
SELECT flow.name, flow_run.name, flow_run.state_type, coalesce(flow_run.start_time, flow_run.expected_start_time),
       flow_run.end_time, flow_run_state.message
FROM flow_run JOIN flow ON flow.id = flow_run.flow_id
LEFT JOIN flow_run_state ON flow_run_state.id = flow_run.state_id
WHERE flow_run.parent_task_run_id IS NULL
ORDER BY 4
"""
FAILED_STATES = ("FAILED", "CRASHED")
FlowRunRow = tuple[str, str, str, str, str | None, str | None]  # flow, name, state, start, end, message


def report_status(project: Path) -> str:
    """What `convoy status` prints."""
    wrong: list[str] = []
    lines = [*report_serving(project, wrong), *report_drift(project, wrong), *report_data(project, wrong), *report_runs(project, wrong),
             *report_unfinished_work(project, wrong), *report_full_check(project, wrong)]  # fmt: skip
    wrong += report_undelivered(project)
    up = ServerAddresses.load(project)
    where = f"MLflow {up.mlflow}, Prefect {up.prefect}" if up else describe_servers()
    lines.append(f"{'servers':<10}{where}")
    lines += [f"{'wrong':<10}{one}" for one in wrong] or [f"{'wrong':<10}nothing"]
    return "\n".join(lines)


def describe_servers() -> str:
    """The servers that the environment names."""
    variables = {"MLflow": "MLFLOW_TRACKING_URI", "Prefect": "PREFECT_API_URL"}
    found = [f"{name} {mask_url(os.environ[key])}" for name, key in variables.items() if os.environ.get(key)]
    return ", ".join(found) or "not running; start it with `convoy up`"


def report_serving(project: Path, wrong: list[str]) -> Iterator[str]:
    """One line a registered model with a champion."""
    try:
        entries = ledger.read_ledger(project)
    except UserError as error:
        wrong.append(str(error))
        entries = []
    champions = read_champions(project, wrong)
    if not champions:
        yield f"{'serving':<10}nothing; train with `convoy run FOLDER`"
    for model, number in champions.items():
        change = find_last_change(entries, model, datetime.now(UTC))
        since = "; the ledger does not say since when"
        if change is not None and change["after"].get("champion") == number:
            since = f" since {format_local_time(change['done'])}: {change['reason']}"
        elif change is not None:
            says = change["after"].get("champion")
            wrong.append(f"{model}: version {number} serves, the ledger says {says}: somebody moved the alias by "
                         "hand; `convoy promote RUN` and `convoy rollback` keep both alike")  # fmt: skip
        yield f"{'serving':<10}{model} version {number}{since}"
    for entry in ledger.find_unfinished(entries):
        wrong.append(f"a decision about {entry['model']} version {entry['version']} was cut short; "
                     "the next promote, predict or rollback carries it out")  # fmt: skip


def report_drift(project: Path, wrong: list[str]) -> Iterator[str]:
    """Of each model: the last batch that was compared with what it was trained on, and what followed."""
    try:
        lines, entries = batch_log.read_batches(project), ledger.read_ledger(project)
    except UserError as error:  # of the ledger that is said above
        if str(batch_log.BATCHES_FILE) in str(error):
            wrong.append(str(error))
        return
    judged = {one["model"]: one for one in lines if one["state"] != TOO_SMALL}
    for model, line in judged.items():
        moved = ", ".join(check["name"] for check in line["checks"] if check["moved"])
        num = format_count(line["num_pictures"], "picture")
        of = f"{model} version {line['version']}, {format_local_time(line['time'])}: {num} of "
        change = find_last_change(entries, model, datetime.now(UTC))
        serves = change is None or change["after"].get("champion") == line["version"]
        if not moved:
            yield f"{'drift':<10}{of}{line['source']} look as before"
            continue
        row = count_drifted_in_a_row(
            [one for one in lines if (one["model"], one["version"]) == (model, line["version"])]
        )
        batch = "batch" if row == 1 else "batches in a row"
        yield (f"{'drift':<10}{of}{line['source']} moved ({moved}), {row} drifted {batch}; "
               f"retrain: {'yes' if line['retrain'] else 'no'}, {line['why']}")  # fmt: skip
        if serves:
            wrong.append(f"what comes in is not what {model} was trained on ({moved}): see {line['page']}; label "
                         "some with `convoy predict SOURCE --review N` and train on them")  # fmt: skip
    ended = {entry["of"] for entry in entries if entry["event"] == ledger.RETRAINED}
    for entry in entries:
        if entry["event"] == ledger.RETRAIN and entry["number"] not in ended:
            wrong.append(f"the retrain of {entry['model']} that drift began at {format_local_time(entry['time'])} has no end: "
                         "unless it still runs, it was killed; `convoy run` goes on with it")  # fmt: skip


def read_champions(project: Path, wrong: list[str]) -> dict[str, int]:
    """Which version of which model has the alias `champion`."""
    uri = get_tracking_uri(project)
    try:
        if uri.startswith("sqlite:///"):
            return _read_champions_from_file(Path(uri.removeprefix("sqlite:///")))
        if uri.startswith(("http://", "https://")):
            return _read_champions_from_server(uri)
        from mlflow import MlflowClient

        models = MlflowClient(uri, uri).search_registered_models()
        return {one.name: int(one.aliases["champion"]) for one in models if "champion" in one.aliases}
    except (sqlite3.Error, OSError, ValueError) as error:
        wrong.append(
            f"MLflow at {mask_url(uri)} cannot be read ({error}); start it, or set MLFLOW_TRACKING_URI to another"
        )
        return {}


def _read_champions_from_file(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    query = "SELECT name, version FROM registered_model_aliases WHERE alias = 'champion' ORDER BY name"
    return {name: int(number) for name, number in _query_sqlite(path, query)}


def _read_champions_from_server(uri: str) -> dict[str, int]:
    url = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/search?max_results=1000"
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=build_mlflow_auth_headers()), timeout=TIMEOUT_S
    ) as response:
        models = json.load(response).get("registered_models", [])
    found = {one["name"]: {a["alias"]: int(a["version"]) for a in one.get("aliases", [])} for one in models}
    return {name: aliases["champion"] for name, aliases in sorted(found.items()) if "champion" in aliases}


def build_mlflow_auth_headers() -> dict[str, str]:
    """What MLflow's client sends to a server that wants a login."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def report_data(project: Path, wrong: list[str]) -> Iterator[str]:
    """The dataset that the next training uses, and its version."""
    import yaml

    try:
        pointer = yaml.safe_load((project / f"{RAW}.dvc").read_text(encoding="utf-8"))
        raw, meta = str(pointer["outs"][0]["md5"]), pointer.get("meta") or {}
    except FileNotFoundError:
        yield f"{'data':<10}nothing was ingested yet"
        return
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        wrong.append(f"{RAW}.dvc: not readable ({error}); run `convoy run FOLDER` again")
        return
    line = f"{meta.get('name', 'data')}, raw version {raw[:12]}, from {meta.get('source', 'an unknown source')}"
    try:
        manifest = json.loads((project / NORMALIZED / "dataset.json").read_text(encoding="utf-8"))
        num = sum(sum(split.values()) for split in manifest["counts"].values())
        line += f"; normalized: {format_count(num, 'picture')}, fingerprint {manifest['fingerprint'][:12]}"
    except FileNotFoundError:
        wrong.append(f"{NORMALIZED} is not there; `dvc repro` makes it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        wrong.append(f"{NORMALIZED}/dataset.json: broken ({error}); run `dvc repro -f normalize`")
    yield f"{'data':<10}{line}"


def report_runs(project: Path, wrong: list[str]) -> Iterator[str]:
    """What ran last, what failed last, and what comes next, as Prefect noted it."""
    try:
        found = read_flow_runs(project)
    except (sqlite3.Error, OSError, ValueError, KeyError) as error:
        wrong.append(f"Prefect's runs cannot be read ({error})")
        return
    began = [run for run in found if run[2] not in ("SCHEDULED", "PENDING")]
    if not began:
        yield f"{'last run':<10}none"
        return
    yield f"{'last run':<10}{_format_run(began[-1])}"
    failures = [run for run in began if run[2] in FAILED_STATES]
    if failures:
        yield f"{'failed':<10}{_format_run(failures[-1])}"
        later = [run for run in began if run[0] == failures[-1][0] and run[3] > failures[-1][3]]
        if not any(run[2] == "COMPLETED" for run in later):
            wrong.append(f"{failures[-1][0]} failed last time and has not been well since; call it again")
    coming = [run for run in found if run[2] == "SCHEDULED" and _parse_time(run[3]) > datetime.now(UTC)]
    if coming:
        yield f"{'next':<10}{coming[0][0]} at {_format_time(coming[0][3])}"


def read_flow_runs(project: Path) -> list[FlowRunRow]:
    """All flow runs, the oldest first: of the server that PREFECT_API_URL names, else of the project's file."""
    api = os.environ.get("PREFECT_API_URL")
    if api is None:
        path = project / CACHE / "prefect.db"
        return [tuple(row) for row in _query_sqlite(path, RUNS_QUERY)] if path.exists() else []
    found = call_prefect_api(f"{api}/flow_runs/filter", {"sort": "START_TIME_DESC"}, timeout_s=TIMEOUT_S)
    flows = call_prefect_api(f"{api}/flows/filter", {}, timeout_s=TIMEOUT_S)
    names = {one["id"]: one["name"] for one in flows}
    rows = [
        (names.get(one["flow_id"], "?"), one["name"], one["state_type"],
         one["start_time"] or one["expected_start_time"], one["end_time"], (one["state"] or {}).get("message"))
        for one in found if one["parent_task_run_id"] is None
    ]  # fmt: skip
    return sorted(rows, key=lambda row: str(row[3]))


def report_unfinished_work(project: Path, wrong: list[str]) -> Iterator[str]:
    """A training that was not finished."""
    for note in crash_recovery.find_dead_processes(project):
        wrong.append(
            f"{note} was killed; the next `convoy run`, `predict` ... closes it and goes on where it stopped"
        )
    at_work = any(not crash_recovery.is_lock_free(lock) for lock in (project / CACHE / "train").glob("*/lock"))
    stopped = max(_find_checkpoint_times(project), default=None)
    if at_work:
        yield f"{'pending':<10}a training, which runs"
    elif stopped is not None:
        when = datetime.fromtimestamp(stopped).astimezone().isoformat(sep=" ", timespec="seconds")
        yield f"{'pending':<10}a training that stopped after {when}; `dvc repro` goes on with it"
    elif not (project / CLASSIFIER / "run.json").exists() and (project / NORMALIZED / "dataset.json").exists():
        wrong.append(
            f"{CLASSIFIER} is not there; `dvc repro` trains it, `dvc checkout` brings back an earlier one"
        )


def report_full_check(project: Path, wrong: list[str]) -> Iterator[str]:
    """What the last full check found."""
    try:
        last = json.loads((project / FULL_CHECK_FILE).read_text(encoding="utf-8"))
        when, findings = format_local_time(last["time"]), dict(last["findings"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        wrong.append(f"{FULL_CHECK_FILE}: not readable ({error}); remove it, the next full check writes it anew")
        return
    found = [f"{name}: {one}" for name, ones in findings.items() for one in ones]
    yield f"{'checked':<10}{when}: {format_count(len(findings), 'thing')} looked at, {len(found)} wrong"
    wrong += [f"the full check of {when} found: {one}" for one in found]


def report_undelivered(project: Path) -> Iterator[str]:
    """What did not get where it was to go: numbers to MLflow, data to DVC's remote, messages to a hook."""
    waiting = offline_queue.count_waiting(project)
    if waiting:
        wait = format_count(sum(waiting.values()), "entry waits", "entries wait")
        yield (f"{wait} for MLflow's server, of {format_count(len(waiting), 'run')} ({', '.join(waiting)}); `convoy "
               "sync` sends them when it is back")  # fmt: skip
    for trouble in problems.list_problems(project):
        times = "" if trouble.num_times == 1 else f"{trouble.num_times} times "
        yield f"{trouble.message} ({times}since {format_local_time(trouble.since)})"


def _format_run(run: FlowRunRow) -> str:
    flow, name, state, start, end, message = run
    took = f", {(_parse_time(end) - _parse_time(start)).total_seconds():.0f} s" if end else ""
    why = f": {' '.join(message.split())[:200]}" if message and state in FAILED_STATES else ""
    return f"{flow} ({name}) {state.lower()}, began {_format_time(start)}{took}{why}"


def _find_checkpoint_times(project: Path) -> Iterator[float]:
    """When the checkpoints were written that an unfinished training would go on from."""
    for path in (project / CACHE / "train").glob("*/last-*.ckpt"):
        with suppress(FileNotFoundError):  # it has gone on since
            yield path.stat().st_mtime


def _parse_time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _format_time(text: str) -> str:
    return _parse_time(text).astimezone().isoformat(sep=" ", timespec="seconds")


def _query_sqlite(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of an SQLite file that others may be writing to. Nothing is written, but what a process that was killed
    left half-written is rolled back, as by every reader: one that may only read would fail there."""
    uri = f"file:{urllib.parse.quote(str(path))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S)) as connection:
        return connection.execute(query).fetchall()
