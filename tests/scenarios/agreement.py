"""Do the five that keep books say the same? Row by row: ledger, registry and runs of MLflow, runs of Prefect,
predictions, DVC with its remote and git. A line for each thing that two of them see differently."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from flows.monitoring import batch_log
from flows.project.paths import NORMALIZED
from flows.project.project import Project
from flows.promotion import ledger, model_registry
from flows.promotion.model_registry import CHAMPION, DECISION_TAG, ROLLED_BACK_TAG
from flows.reports.history import find_last_change
from flows.versioning import dvc_repo
from imageset.exceptions import UserError
from tests.scenarios.nights import NAME, SOURCE, Nights

Lines = Iterator[str]


def disagreements(nights: Nights) -> list[str]:
    """All that does not agree; [] where all is well."""
    return [f"{name}: {line}" for name in CHECKS for line in found_by(name, nights)]


def found_by(name: str, nights: Nights) -> list[str]:
    """The findings of one comparison."""
    try:
        return list(CHECKS[name](nights))
    except UserError as error:
        return [str(error)]


# ---- the ledger beside MLflow ----------------------------------------------------------------------------------


def registry_and_ledger(nights: Nights) -> Lines:
    """Each version was decided on in a line that its tags repeat; aliases are where the last line left them."""
    client = model_registry.connect_registry(Project(nights.project))
    entries = ledger.read_ledger(Project(nights.project))
    yield from (f"line {entry['number']} has no end" for entry in ledger.find_unfinished(entries))
    moves = ledger.find_completed(entries, NAME)
    decisions = {
        entry["version"]: entry for entry in moves if entry["event"] == ledger.DECISION
    }  # the last of each
    versions = {int(one.version): one for one in client.search_model_versions(f"name = '{NAME}'")}
    for number in sorted(versions.keys() | decisions.keys()):
        if number not in versions:
            yield f"line {decisions[number]['number']} decides on version {number}, which is not registered"
        elif number not in decisions:
            yield f"version {number} is registered, but no line decides on it"
        else:
            gone = any(entry["event"] == ledger.ROLLBACK and entry["version"] == number for entry in moves)
            yield from _version_and_line(versions[number], decisions[number], gone)
    serving: dict[str, int] = {}
    for entry in moves:
        if entry["before"] != serving:
            yield f"line {entry['number']} found {entry['before']}, the line before it had left {serving}"
        serving = entry["after"]
    if (now := model_registry.read_aliases(client, NAME)) != serving:
        yield f"the aliases are {now}, the ledger has left {serving}"


def _version_and_line(version: Any, entry: ledger.LedgerEntry, gone: bool) -> Lines:
    from mlflow.artifacts import download_artifacts

    from lightning_modules.bundle import check_bundle

    named = f"version {version.version}"
    if version.run_id != entry["run"]:
        yield f"{named} is of run {version.run_id}, line {entry['number']} of {entry['run']}"
    if version.tags.get(DECISION_TAG) != entry["reason"]:
        yield f"{named} says {version.tags.get(DECISION_TAG)!r}, line {entry['number']} {entry['reason']!r}"
    for key, value in entry["numbers"].items():
        if isinstance(value, int | float) and version.tags.get(f"convoy.{key}") != f"{value:.6g}":
            yield f"{named} has {key} {version.tags.get(f'convoy.{key}')}, line {entry['number']} {value:.6g}"
    if gone != bool(version.tags.get(ROLLED_BACK_TAG)):
        yield f"{named} was{'' if gone else ' not'} rolled back by the ledger, its tags say otherwise"
    uri = f"models:/{NAME}/{version.version}/artifacts/bundle"
    if (digest := check_bundle(Path(download_artifacts(artifact_uri=uri)))[1]) != entry["bundle"]:
        yield f"{named} holds the bundle {digest[:12]}, line {entry['number']} names {entry['bundle'][:12]}"


def runs_and_ledger(nights: Nights) -> Lines:
    """Every run has ended; every finished training was decided on; each decision lies in its run, as it was."""
    from mlflow.exceptions import MlflowException

    client = model_registry.connect_registry(Project(nights.project))
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    decisions = [one for one in ledger.read_ledger(Project(nights.project)) if one["event"] == ledger.DECISION]
    decided = {entry["run"] for entry in decisions}
    for run in runs:
        if run.info.status != "FINISHED":
            yield f"run {run.info.run_id} is {run.info.status}"
        if run.info.run_id not in decided:
            yield f"run {run.info.run_id} trained, but no line decides on it"
    yield from (
        f"run {one} is in the ledger, not in MLflow" for one in decided - {run.info.run_id for run in runs}
    )
    with tempfile.TemporaryDirectory() as scratch:
        for entry in decisions:
            path = f"promotion/{entry['number']:04d}/ledger.json"
            try:
                kept = json.loads(Path(client.download_artifacts(entry["run"], path, scratch)).read_text())
            except MlflowException:
                kept = None
            if kept != entry:
                yield f"{path} of run {entry['run']} is not the ledger's line {entry['number']}"


# ---- Prefect ---------------------------------------------------------------------------------------------------


def runs_of_prefect(nights: Nights) -> Lines:
    """Each night holds the runs that it should, in the states that they should be in, and no others."""
    found = _runs(nights)
    flows = {one["id"]: one["name"] for one in _ask_all(nights, "flows", None)}
    for night in nights.nights:
        begun = [one for one in found if _time(night.asked) <= _time(one["start_time"]) < _time(night.ended)]
        known = Counter((flows[one["flow_id"]], one["state_name"]) for one in begun)
        for what, num in (known - Counter(night.runs)).items():
            yield f"night {night.number}: {num} runs of Prefect are {' '.join(what)}, which did not happen"
        for what, num in (Counter(night.runs) - known).items():
            yield f"night {night.number}: {num} runs are not {' '.join(what)} in Prefect"


def artifacts_of_prefect(nights: Nights) -> Lines:
    """One page for each decision, each table and each judged batch; one event for each that drifted."""
    reasons = [
        one["reason"] for one in ledger.read_ledger(Project(nights.project)) if one["event"] == ledger.DECISION
    ]
    judged = batch_log.read_batches(Project(nights.project))
    tables = [night.table.name for night in nights.nights if (nights.project / night.table).exists()]
    told = {"promotion": reasons, "predictions": tables, "drift": [line["source"] for line in judged]}
    runs = [one["id"] for one in _runs(nights)]
    for key, wanted in told.items():
        body = {"key": {"any_": [key]}, "flow_run_id": {"any_": runs}}
        pages = [one["description"] for one in _ask_all(nights, "artifacts", body)]
        if len(pages) != len(wanted):
            yield f"{len(pages)} pages {key}, {len(wanted)} are due"
        yield from (f"no page {key} about {one}" for one in wanted if not any(one in page for page in pages))
    events = _events(nights)
    for line in judged:
        if (num := events[line["batch"]]) != (line["state"] == "drifted"):
            yield f"{line['source']} is {line['state']}, and Prefect has {num} events about it"


def _runs(nights: Nights) -> list[dict[str, Any]]:
    return _ask_all(nights, "flow_runs", {"start_time": {"after_": nights.nights[0].asked}})


def _events(nights: Nights) -> Counter[str]:
    from flows.orchestration.prefect_api import call_prefect_api

    body = {"filter": {"event": {"name": ["convoy.drift.detected"]}}, "limit": 50}
    return Counter(
        one["payload"]["batch"]
        for one in call_prefect_api(f"{nights.api}/events/filter", body, timeout_s=30)["events"]
    )


def _ask_all(nights: Nights, what: str, where: dict[str, Any] | None) -> list[dict[str, Any]]:
    from flows.orchestration.prefect_api import call_prefect_api

    body = {"limit": 200} | ({what: where} if where else {})
    found = list(call_prefect_api(f"{nights.api}/{what}/filter", body, timeout_s=30))
    assert len(found) < 200
    return found


# ---- predictions -----------------------------------------------------------------------------------------------


def predictions(nights: Nights) -> Lines:
    """One picture, one row, under its own id, by the version that the ledger says served at that moment."""
    entries = ledger.read_ledger(Project(nights.project))
    seen: Counter[str] = Counter()
    for night in nights.nights:
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (nights.project / night.inbox).iterdir()
        }
        table = nights.project / night.table
        rows = pq.read_table(table).to_pylist() if table.exists() else []
        seen.update(row["image_id"] for row in rows)
        yield from (f"{night.table.name}: {line}" for line in _files_and_rows(files, rows))
        served = find_last_change(entries, NAME, _time(night.asked))
        yield from (f"{night.table.name}: {line}" for line in _rows_and_ledger(rows, served))
    yield from (f"picture {one} stands in {num} rows" for one, num in seen.items() if num > 1)


def _files_and_rows(files: dict[str, str], rows: Iterable[dict[str, Any]]) -> Lines:
    rows_of = defaultdict(list)
    for row in rows:
        rows_of[row["uri"]].append(row)
    for uri in sorted(files.keys() | rows_of.keys()):
        if uri not in files or len(rows_of[uri]) != 1:
            yield f"{uri} has {len(rows_of[uri])} rows, {int(uri in files)} is due"
            continue
        (row,) = rows_of[uri]
        if row["image_id"] != files[uri]:
            yield f"{uri} stands under the id {row['image_id']}"
        if (row["status"] == "error") != uri.startswith("broken"):
            yield f"{uri} is {row['status']} ({row['error']})"


def _rows_and_ledger(rows: Iterable[dict[str, Any]], served: ledger.LedgerEntry | None) -> Lines:
    version = served["after"][CHAMPION] if served else None
    data = _bundle_of(version)["dataset"]["fingerprint"] if version else None
    for row in rows:
        if (row["model_name"], row["model_version"]) != (NAME, version):
            yield f"{row['uri']} is by {row['model_name']} version {row['model_version']}, {version} served"
        elif row["dataset_fingerprint"] != data:
            yield f"{row['uri']} names the data {row['dataset_fingerprint'][:12]}, the bundle {data[:12]}"


def _bundle_of(version: int) -> dict[str, Any]:
    from mlflow.artifacts import download_artifacts

    folder = Path(download_artifacts(artifact_uri=f"models:/{NAME}/{version}/artifacts/bundle"))
    return dict(json.loads((folder / "bundle.json").read_text())["info"])


# ---- the dataset -----------------------------------------------------------------------------------------------


def source_and_dataset(nights: Nights) -> Lines:
    """Each file of the source is in the dataset or among the rejected, once, under its own id and label."""
    from imageset.store.reader import ImageStore

    store = ImageStore.open(nights.project / NORMALIZED)
    kept = {row["uri"]: row for row in store.index.select(["uri", "image_id", "label"]).to_pylist()}
    rejected = {
        row["uri"]: row for row in pq.read_table(nights.project / NORMALIZED / "rejected.parquet").to_pylist()
    }
    files = {
        str(path.relative_to(nights.project / SOURCE)): path for path in (nights.project / SOURCE).rglob("*.png")
    }
    for uri in sorted(files.keys() | kept.keys() | rejected.keys()):
        if uri not in files or (uri in kept) == (uri in rejected):
            yield f"{uri}: there {uri in files}, in the dataset {uri in kept}, rejected {uri in rejected}"
            continue
        row = kept.get(uri) or rejected[uri]
        if row["image_id"] != hashlib.sha256(files[uri].read_bytes()).hexdigest():
            yield f"{uri} stands under the id {row['image_id']}"
        if uri in kept and row["label"] != files[uri].parent.name:
            yield f"{uri} is labelled {row['label']}"
        if (uri in rejected) != files[uri].name.startswith("broken"):
            yield f"{uri} is {'rejected: ' + str(row.get('detail')) if uri in rejected else 'kept'}"


# ---- DVC, its remote, and git ----------------------------------------------------------------------------------


def data_and_stages(nights: Nights) -> Lines:
    """Find files that differ from DVC's record, and stages that are out of date."""
    for name, changes in dvc_repo.find_changed_stages(Project(nights.project)).items():
        yield f"{name} is out of date: {', '.join(changes)}"
    for file in dvc_repo.find_damaged_files(Project(nights.project)):
        yield f"{file.path} has the MD5 {file.actual_md5}, not {file.md5}"


def data_and_models(nights: Nights) -> Lines:
    """Each decision was committed with the dvc.lock of its training: that names the data that bundle and run name,
    and a bundle of the run that the line names; all of it lies in DVC's cache and on the remote."""
    client = model_registry.connect_registry(Project(nights.project))
    commits = list(_commits(nights.project))
    for entry in ledger.read_ledger(Project(nights.project)):
        if entry["event"] != ledger.DECISION:
            continue
        lock = next((lock for lines, lock in commits if entry["number"] in lines), None)
        if lock is None:
            yield f"line {entry['number']} was never committed"
            continue
        named = f"version {entry['version']}"
        data, model = (lock["stages"][stage]["outs"][0]["md5"] for stage in ("normalize", "train"))
        bundle, run = _bundle_of(entry["version"])["dataset"], client.get_run(entry["run"])
        (used,) = run.inputs.dataset_inputs
        if not bundle["digest"] == used.dataset.digest == data:
            yield f"{named}: data {bundle['digest']} in the bundle, {used.dataset.digest} in MLflow, {data} in DVC"
        manifest = _cached(nights.project, data, "dataset.json")
        if not bundle["fingerprint"] == run.data.tags["convoy.fingerprint"] == manifest["fingerprint"]:
            yield f"{named}: bundle, run and dataset.json differ in the data's fingerprint"
        if (other := _cached(nights.project, model, "run.json")["run_id"]) != entry["run"]:
            yield f"{named}: DVC keeps the bundle of run {other}, line {entry['number']} names {entry['run']}"
        for digest in (data, model):
            if not (nights.remote / "files/md5" / digest[:2] / digest[2:]).exists():
                yield f"{named}: {digest} is not on the remote"


def _commits(project: Path) -> Iterator[tuple[set[int], dict[str, Any]]]:
    """Numbers of the ledger's lines and dvc.lock, as each commit of the branch has them, the oldest first."""
    for commit in _git(project, "log", "--reverse", "--format=%H", "--first-parent", "convoy").split():
        names = _git(project, "ls-tree", "-r", "--name-only", commit).splitlines()
        if str(ledger.LEDGER) in names:
            lines = _git(project, "show", f"{commit}:{ledger.LEDGER}").splitlines()
            yield (
                {json.loads(line)["number"] for line in lines},
                yaml.safe_load(_git(project, "show", f"{commit}:dvc.lock")),
            )


def _git(project: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=project, check=True, capture_output=True, text=True).stdout


def _cached(project: Path, folder: str, name: str) -> dict[str, Any]:
    """A JSON file of a folder that DVC's cache holds under a digest."""
    cache = project / ".dvc/cache/files/md5"
    listed = json.loads((cache / folder[:2] / folder[2:]).read_text())
    (digest,) = (one["md5"] for one in listed if one["relpath"] == name)
    return dict(json.loads((cache / digest[:2] / digest[2:]).read_text()))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


CHECKS: dict[str, Callable[[Nights], Lines]] = {
    "registry and ledger": registry_and_ledger,
    "runs and ledger": runs_and_ledger,
    "runs of Prefect": runs_of_prefect,
    "artifacts of Prefect": artifacts_of_prefect,
    "predictions": predictions,
    "source and dataset": source_and_dataset,
    "data and stages": data_and_stages,
    "data and models": data_and_models,
}
