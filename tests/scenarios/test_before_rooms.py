"""Files written before the modules moved into sub-packages are still read; see tests/data/before_rooms."""

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.monitoring import batch_log
from flows.notifications import problems
from flows.orchestration import crash_recovery
from flows.prediction import cache
from flows.prediction.delivery_record import DeliveryRecord
from flows.prediction.table_reader import read_model_version, read_prediction_rows
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry, rollback
from flows.reports import history, run_comparison, status
from flows.sweeps import study
from imageset.decoding.decoder import decode
from imageset.exceptions import UserError
from imageset.normalize.params import read_normalize_params
from imageset.normalize.stage import normalize
from imageset.raw import ingestion, shards, source_file
from imageset.raw import records as raw_records
from imageset.sources.factory import open_source
from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle
from lightning_modules.features.reference_sample import ImageSample
from lightning_modules.scoring import Scorer
from lightning_modules.tracking import offline_queue
from lightning_modules.tracking.model_download import load_bundle
from lightning_modules.training.checkpointing import DigestCheckpointIO, find_newest_intact
from tests.helpers.project import ROOT, run_convoy
from tests.helpers.real_data import extract_archive
from tests.helpers.servers import serve_mlflow

KEPT = ROOT / "tests" / "data" / "before_rooms"
EXPECTED = json.loads((KEPT / "expected.json").read_text()) if (KEPT / "expected.json").exists() else {}
NAME = "few-digits"
CLOSE = 1e-5
BUNDLE = Path("data/models/classifier")


# ---- to put it back ------------------------------------------------------------------------------------------


def restore(project: Path) -> Path:
    """The project as it was: the names that git ignores, the code in the models, and MLflow's store."""
    for one in KEPT.iterdir():
        if one.name in ("README.md", "expected.json", "store", "offline", "cache"):
            continue
        copy = shutil.copytree if one.is_dir() else shutil.copy2
        copy(one, project / one.name)
    for name in ("dvc.yaml", "dvc.lock", "data/raw.dvc"):
        (project / f"{name}.txt").rename(project / name)
    shutil.copytree(KEPT / "cache", project / ".cache")
    (unfinished,) = (project / ".cache/train").iterdir()
    (unfinished / "lock").touch()
    for dump in [*(project / ".cache/sweep").glob("*/study.sql"), project / ".cache/prefect.sql.gz"]:
        make_database(dump, dump.with_name(f"{dump.name.partition('.')[0]}.db"), project)
        dump.unlink()
    shutil.copytree(KEPT / "store" / "artifacts", project / "mlartifacts")
    for model in (project / "mlartifacts").glob("*/models/*/artifacts"):
        unpack_code(model / "code")
        shutil.copy2(model / "code/lightning_modules/served.py", model)
        put_path(model / "MLmodel", project)
    make_database(KEPT / "store" / "mlflow.sql", project / "mlflow.db", project)
    return project


def restore_offline(project: Path) -> Path:
    """A project of which only the journal of a training is left that MLflow's server knows nothing of."""
    shutil.copytree(KEPT / "offline" / "mlflow-outbox", project / ".cache" / "mlflow-outbox")
    (box,) = (project / ".cache" / "mlflow-outbox").iterdir()
    put_path(box / "journal.jsonl", project)
    (model,) = box.glob("files/*/model")
    unpack_code(model / "code")
    for name in ("params.yaml", "data/normalized"):
        copy = shutil.copytree if (KEPT / name).is_dir() else shutil.copy2
        (project / name).parent.mkdir(exist_ok=True)
        copy(KEPT / name, project / name)
    shutil.copy2(KEPT / "dvc.yaml.txt", project / "dvc.yaml")
    return project


def unpack_code(folder: Path) -> None:
    """`imageset` and `lightning_modules` as every model of that time carries them."""
    with tarfile.open(KEPT / "store" / "code.tar.gz") as tar:
        extract_archive(tar, folder)


def put_path(path: Path, project: Path) -> None:
    path.write_text(path.read_text().replace("/PROJECT", str(project)))


def make_database(dump: Path, path: Path, project: Path) -> None:
    text = gzip.decompress(dump.read_bytes()).decode() if dump.suffix == ".gz" else dump.read_text()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(text.replace("/PROJECT", str(project)))


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The whole project."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(project)
    return restore(project)


def inbox() -> list[Path]:
    """Three pictures that no model was trained on."""
    return [KEPT / "inbox" / name for name in EXPECTED["pictures"]]


def said_by(bundle: Bundle) -> list[list]:
    """[label, probability] of each of those three."""
    images = np.stack([decode(path.read_bytes(), bundle.spec) for path in inbox()])
    return [list(bundle.info.to_prediction(row)) for row in Scorer(bundle).probabilities(images)]


def close_to(found, expected) -> bool:
    labels, sure = zip(*found, strict=True)
    expected_labels, expected_sure = zip(*expected, strict=True)
    return labels == expected_labels and sure == pytest.approx(expected_sure, abs=CLOSE)


def statuses(project: Path) -> dict[str, str]:
    with closing(sqlite3.connect(project / "mlflow.db")) as connection:
        return dict(connection.execute("SELECT run_uuid, status FROM runs"))


def last_flow_run(project: Path) -> tuple[str, str, str]:
    """Flow, name and state of the last run that Prefect knows of."""
    query = (
        "SELECT flow.name, flow_run.name, flow_run.state_type "
        "FROM flow_run JOIN flow ON flow.id = flow_run.flow_id ORDER BY flow_run.created DESC LIMIT 1"
    )
    with closing(sqlite3.connect(project / ".cache/prefect.db")) as connection:
        return connection.execute(query).fetchone()


def age(project: Path) -> str:
    """Let the heart of the killed command, on another machine, have stopped two minutes ago; returns its id."""
    (note,) = (project / crash_recovery.PROCESS_RECORDS).glob("*.json")
    os.utime(note, (time.time() - 120, time.time() - 120))
    return note.stem


# ---- pictures ------------------------------------------------------------------------------------------------


def test_the_raw_data_is_read_and_a_second_ingest_adds_nothing(old):
    expected = EXPECTED["raw"]
    records = raw_records.read_records(old / "data/raw")
    absent = [
        uri for uri, gone in zip(records["uri"].to_pylist(), records["absent"].to_pylist(), strict=True) if gone
    ]
    assert (len(records), absent) == (expected["num_records"], expected["absent"])
    assert source_file.read_source_identity(old / "data/raw") == expected["source"]
    assert source_file.read_first_shards(old / "data/raw") == expected["first_shards"]
    ids = sorted(set(records["image_id"].to_pylist()))
    assert len(dict(shards.read_image_bytes(old / "data/raw", ids))) == expected["num_images"]
    summary = ingestion.ingest_source(open_source(str(old / NAME)), old / "data/raw")
    assert (summary.num_new, summary.num_absent, summary.changed) == (0, 1, False)


def test_dvc_s_note_of_the_raw_data_is_read(old):
    from flows.versioning.dvc_repo import read_last_source
    from lightning_modules.training.mlflow_run import read_dataset_digest

    assert (read_last_source(Project(old)), Project(old).read_ingested_name()) == (NAME, NAME)
    store = ImageStore.open(old / "data/normalized")
    assert read_dataset_digest(old, store) == EXPECTED["dataset"]["digest"]


def test_the_normalized_dataset_is_opened(old):
    expected = EXPECTED["dataset"]
    store = ImageStore.open(old / "data/normalized")
    assert (store.name, store.fingerprint, list(store.classes)) == (
        expected["name"], expected["fingerprint"], expected["classes"],
    )  # fmt: skip
    assert (store.counts, list(store.mean), list(store.std)) == (
        expected["counts"],
        expected["mean"],
        expected["std"],
    )
    assert store.spec.to_dict() == expected["decode"]
    rejected = pq.read_table(store.path / "rejected.parquet").to_pylist()
    assert [[row["uri"], row["reason"]] for row in rejected] == expected["rejected"]


def test_a_newer_decoder_decodes_all_again_once_and_writes_the_same_pixels(old):
    before = read_dataset(old)
    params = read_normalize_params(old / "params.yaml")
    summary = normalize(old / "data/raw", old / "data/normalized", params, executor="threads")
    assert (summary.num_decoded, summary.fingerprint) == (20, EXPECTED["dataset"]["fingerprint"])
    after = read_dataset(old)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"dataset.json"}
    older, newer = (json.loads(files["dataset.json"]) for files in (before, after))
    assert newer.pop("digests").keys() >= after.keys() - {"dataset.json"} and newer.pop("sha256")
    assert older.pop("decoder") < newer.pop("decoder") and older == newer
    assert normalize(old / "data/raw", old / "data/normalized", params, executor="threads").num_decoded == 0
    assert read_dataset(old) == after


def read_dataset(project: Path) -> dict[str, bytes]:
    """The files of the dataset, but for its page."""
    files = (project / "data/normalized").iterdir()
    return {path.name: path.read_bytes() for path in files if path.name != "dataset.html"}


# ---- models --------------------------------------------------------------------------------------------------


def test_the_bundle_says_what_it_said(old):
    expected = EXPECTED["bundle"]
    bundle = Bundle.load(old / BUNDLE)
    assert (bundle.digest, list(bundle.info.classes)) == (expected["digest"], expected["classes"])
    assert bundle.info.network["class_path"] == expected["class_path"] == "lightning_modules.networks.ConvNet"
    assert bundle.info.temperature == expected["temperature"]
    assert bundle.info.git_commit == EXPECTED["commit"]
    assert close_to(said_by(bundle), expected["says"])
    reference = ImageSample.from_bytes(bundle.reference)
    assert (len(reference), reference.features.shape[1]) == (expected["num_reference"], expected["num_features"])
    assert reference.rejected.tolist() == expected["rejected"]


def test_metrics_and_report_are_there(old):
    metrics = json.loads((old / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] == EXPECTED["metrics"]["accuracy"]
    assert metrics["num_test"] == EXPECTED["metrics"]["num_test"]
    head = (old / "data/models/report/predictions.csv").read_text().splitlines()
    assert [head[0], len(head) - 1] == EXPECTED["metrics"]["predictions_csv"]


def test_the_registry_is_read(old):
    client = model_registry.connect_registry(Project(old))
    assert model_registry.read_aliases(client, NAME) == EXPECTED["registry"]["aliases"]
    serves = model_registry.require_champion(client, NAME)
    assert (serves.number, serves.run_id) == (
        EXPECTED["registry"]["champion"],
        EXPECTED["registry"]["champion_run"],
    )
    assert serves.decision == EXPECTED["registry"]["decision"]
    other = model_registry.find_version(client, NAME, 2)
    assert model_registry.ROLLED_BACK_TAG in other.tags and other.tags["convoy.compared_with_version"] == "1"
    bundle = load_bundle(serves.uri)
    assert bundle.digest == EXPECTED["registry"]["champion_digest"]
    assert close_to(said_by(bundle), EXPECTED["registry"]["champion_says"])
    assert load_bundle(other.uri).digest == EXPECTED["bundle"]["digest"]


def test_two_runs_are_compared(old):
    expected = EXPECTED["compared"]
    found = run_comparison.compare_runs(
        Project(old), EXPECTED["registry"]["champion_run"], EXPECTED["ledger"]["second_run"]
    )
    assert (found.num_shared, len(found.gained), len(found.lost)) == tuple(expected["shared_won_lost"])
    assert [row[0] for row in found.params] == expected["params"]
    assert [row for row in found.metrics if row[0] == "test_accuracy"] == [tuple(expected["test_accuracy"])]


PREDICTS = """
import json, sys
import mlflow, pandas as pd
uri, model, *paths = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
rows = mlflow.pyfunc.load_model(model).predict(pd.DataFrame({"path": paths}))
import imageset, lightning_modules
print(json.dumps([imageset.__file__, lightning_modules.__file__]))
print(rows.to_json(orient="records", double_precision=15))
"""


@pytest.mark.long
def test_the_registered_pyfunc_model_predicts_with_the_code_that_it_carries(old, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", PREDICTS, f"sqlite:///{old}/mlflow.db", f"models:/{NAME}@champion",
         *map(str, inbox())],
        cwd=tmp_path / "elsewhere", env=env, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    places, rows = map(json.loads, done.stdout.splitlines()[-2:])
    assert places and all("/code/" in place and not place.startswith(str(ROOT)) for place in places)
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert close_to([[row["label"], row["probability"]] for row in rows], EXPECTED["registry"]["champion_says"])


# ---- decisions -----------------------------------------------------------------------------------------------


def test_the_ledger_is_whole(old):
    expected = EXPECTED["ledger"]
    entries = ledger.read_ledger(Project(old))
    assert [entry["event"] for entry in entries] == expected["events"]
    assert ledger.find_unfinished(entries) == []
    assert ledger.append_entry(Project(old), {"event": "done", "of": 7})["follows"] == expected["last_link"]
    said = history.report_history(Project(old))
    assert [part for part in expected["history"] if part not in said] == []
    (old / ledger.LEDGER).write_text((old / ledger.LEDGER).read_text().replace("first model", "best model"))
    with pytest.raises(UserError, match="line 2 does not follow from the one before it"):
        ledger.read_ledger(Project(old))


def test_a_rollback_that_was_cut_short_is_carried_out(old):
    path = old / ledger.LEDGER
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    client = model_registry.connect_registry(Project(old))
    model_registry.set_alias(client, NAME, model_registry.CHAMPION, 2)
    model_registry.set_alias(client, NAME, model_registry.PREVIOUS, 1)
    alias_updates.replay_if_needed(client, Project(old))
    assert model_registry.read_aliases(client, NAME) == EXPECTED["registry"]["aliases"]
    assert [entry["event"] for entry in ledger.read_ledger(Project(old))] == EXPECTED["ledger"]["events"]


@pytest.mark.long
def test_what_was_rolled_back_is_promoted_by_hand_and_rolled_back_again(old, prefect_server):
    age(old)
    run = EXPECTED["ledger"]["second_run"]
    said = run_convoy(old, "promote", run, PREFECT_API_URL=prefect_server).stdout
    assert "was rolled back and serves again only with --override" in said
    said = run_convoy(old, "promote", run, "--override", "it is better", PREFECT_API_URL=prefect_server).stdout
    assert f"{NAME} version 2 serves: it is better (by hand; the comparison: accuracy 1.0000 against" in said
    decided = ledger.read_ledger(Project(old))[
        8
    ]  # what version 1 learnt from is known from its run: other data than is here now
    assert (decided["numbers"]["num_test"], decided["numbers"]["num_leaks"]) == (3, 0)
    client = model_registry.connect_registry(Project(old))
    assert model_registry.read_aliases(client, NAME) == {"champion": 2, "previous": 1}
    back = rollback.rollback(Project(old), NAME, "no, it is not")
    assert (back.serves.number, back.instead_of) == (1, 2)
    assert model_registry.read_aliases(client, NAME) == {"champion": 1}
    assert [one["event"] for one in ledger.read_ledger(Project(old))[8:]] == [
        "decision",
        "done",
        "rollback",
        "done",
    ]


# ---- predictions ---------------------------------------------------------------------------------------------


def test_tables_of_predictions_are_read(old):
    table = old / "data/predictions/inbox.parquet"
    assert list(read_model_version(table)) == [NAME, 1]
    rows = list(read_prediction_rows(table))
    assert [row["uri"] for row in rows] == [one[0] for one in EXPECTED["predictions"]]
    whole = pq.read_table(table).to_pylist()
    assert [[row["uri"], row["label"], row["status"]] for row in whole] == [
        [uri, label, state] for uri, label, _, state in EXPECTED["predictions"]
    ]
    assert len(list(read_prediction_rows(old / "data/predictions/late.csv"))) == EXPECTED["num_late"]
    review = (old / "data/predictions/inbox.review/review.csv").read_text().splitlines()
    assert [review[0], len(review) - 1] == EXPECTED["review"]


@pytest.mark.long
def test_a_prediction_over_the_old_cache_gives_the_same_table(old, prefect_server):
    age(old)
    done = run_convoy(old, "predict", "inbox", "--out", "again.parquet", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    found = pq.read_table(old / "again.parquet").to_pylist()
    assert [[row["uri"], row["label"], row["status"]] for row in found] == [
        [uri, label, state] for uri, label, _, state in EXPECTED["predictions"]
    ]
    sure = [
        (row["probability"], one[2]) for row, one in zip(found, EXPECTED["predictions"], strict=True) if one[2]
    ]
    assert [one for one, _ in sure] == pytest.approx([other for _, other in sure], abs=CLOSE)
    assert len(batch_log.read_batches(Project(old))) == len(
        EXPECTED["monitor"]
    )  # none of these pictures is judged twice


def test_parts_of_predictions_are_read(old):
    (folder,) = (old / ".cache/predictions").iterdir()
    kept = cache.PredictionCache(folder, key="any")
    assert folder.name == EXPECTED["parts"]["folder"]
    assert kept.list_shards() == EXPECTED["parts"]["names"]
    assert len(list(kept.iter_rows(kept.list_shards()))) == EXPECTED["parts"]["num_rows"]
    assert len(DeliveryRecord(kept).load_index()) == EXPECTED["parts"]["num_delivered"]
    image_id, label = EXPECTED["parts"]["one"]
    assert kept.find_answer(image_id)["label"] == label


def test_judged_batches_are_read(old):
    lines = batch_log.read_batches(Project(old), NAME, 1)
    assert [[line["batch"], line["state"], line["num_pictures"]] for line in lines] == EXPECTED["monitor"]
    assert len(batch_log.read_judged_ids(Project(old), NAME, 1)) == EXPECTED["num_judged"]
    ids = np.load(batch_log.ids_path(Project(old), lines[0]["batch"]), allow_pickle=False)
    assert batch_log.compute_batch_id(NAME, 1, ids) == lines[0]["batch"]


# ---- what did not come to its end ----------------------------------------------------------------------------


@pytest.mark.long
def test_a_command_that_was_killed_is_closed(old):
    expected = EXPECTED["killed"]
    assert age(old) == expected["id"]
    (note,) = crash_recovery.find_dead_processes(Project(old))
    assert (note.command, note.host, list(note.names.values())) == (
        expected["command"], expected["host"], expected["names"],
    )  # fmt: skip
    assert list(note.apis.values()) == [None] and crash_recovery.needs_prefect_server(Project(old))
    assert statuses(old)[expected["mlflow_run"]] == "RUNNING"
    assert last_flow_run(old) == (*expected["flow_run"], "RUNNING")
    done = run_convoy(old, "sync")
    assert done.returncode == 0 and "was killed and is closed as crashed" in done.stdout, done.stdout
    assert crash_recovery.find_dead_processes(Project(old)) == [] and not list(
        (old / crash_recovery.PROCESS_RECORDS).glob("*.json")
    )
    assert statuses(old)[expected["mlflow_run"]] == "KILLED"
    assert last_flow_run(old) == (*expected["flow_run"], "CRASHED")


def test_status_says_all_that_is_left(old):
    age(old)
    said = status.report_status(Project(old))
    assert [part for part in EXPECTED["status"] if part not in said] == []
    assert [[one.name, one.num_times, one.message] for one in problems.list_problems(Project(old))] == EXPECTED[
        "troubles"
    ]


def test_the_checkpoints_of_an_unfinished_training_are_read(old):
    expected = EXPECTED["unfinished"]
    (folder,) = (old / ".cache/train").iterdir()
    assert (folder / "run_id").read_text() == EXPECTED["killed"]["mlflow_run"]
    for begin in ("last", "best"):
        path, damaged = find_newest_intact(folder, begin)
        assert (path.name, damaged) == (expected[begin], [])
        kept = DigestCheckpointIO().load_checkpoint(path)
        assert (kept["epoch"], kept["global_step"]) == (expected["epoch"], expected["global_step"])
        assert sorted(kept["convoy"]) == expected["convoy"]
        assert sorted(kept["state_dict"]) == expected["weights"]


def test_the_study_of_a_sweep_is_read(old):
    expected = EXPECTED["sweep"]
    (folder,) = (old / ".cache/sweep").iterdir()
    assert folder.name == expected["folder"] and (folder / "run_id").read_text() == expected["run_id"]
    params = {"metric": "val_loss", "pruner": "median", "startup_trials": 5, "warmup_epochs": 3, "seed": 0}
    found = study.open_study(folder, params, 2)
    assert study.count_finished(found) == expected["num_done"]
    assert found.best_trial.user_attrs[study.VALUES_ATTR] == expected["best"]
    assert found.best_value == pytest.approx(expected["value"])


# ---- a training whose MLflow was away --------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, empty_mlflow_db, monkeypatch):
    """MLflow's server on a fresh SQLite file; yields its address."""
    with serve_mlflow(tmp_path / "server", empty_mlflow_db) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_the_journal_of_a_training_without_a_server_is_read(tmp_path):
    expected = EXPECTED["offline"]
    project = restore_offline(tmp_path)
    (box,) = offline_queue.list_queues(project)
    assert (box.run_id, box.num_waiting) == (expected["run_id"], expected["num_waiting"])
    assert [line["do"] for line in box.read_entries()] == expected["does"]
    assert offline_queue.count_waiting(project) == {expected["run_id"]: expected["num_waiting"]}
    note = json.loads((KEPT / "offline/run.json").read_text())
    assert (note["run_id"], note["model_uri"]) == (expected["run_id"], None)
    with pytest.raises(UserError, match=r"30 entries wait for MLflow; run `convoy sync` first"):
        offline_queue.check_all_sent(project, note["run_id"])


@pytest.mark.long
def test_the_journal_is_sent_by_sync_and_its_model_predicts(tmp_path, server):
    import mlflow

    expected = EXPECTED["offline"]
    project = tmp_path / "offline"
    project.mkdir()
    restore_offline(project)
    done = run_convoy(project, "sync", MLFLOW_TRACKING_URI=server)
    assert done.returncode == 0 and f"{expected['num_waiting']} entries sent" in done.stdout, done.stdout
    assert offline_queue.list_queues(project) == []
    client = model_registry.connect_registry(Project(project))
    run = model_registry.require_finished_run(client, expected["run_id"])
    assert run.data.params["model.network.class_path"] == "lightning_modules.networks.ConvNet"
    assert run.data.metrics["test_accuracy"] == expected["test_accuracy"]
    assert len(client.get_metric_history(run.info.run_id, "val_loss")) == expected["num_epochs"]
    (entry,) = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == (NAME, expected["digest"])
    assert sorted(one.path for one in client.list_artifacts(run.info.run_id, "report")) == expected["report"]
    model_uri = model_registry.find_model_uri(run)
    bundle = load_bundle(model_uri)
    assert bundle.digest == expected["bundle"] and close_to(said_by(bundle), expected["says"])
    folder = mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=str(tmp_path / "model"))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = subprocess.run(
        [sys.executable, "-c", PREDICTS, server, str(folder), *map(str, inbox())],
        cwd=tmp_path, env=env, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    rows = json.loads(said.stdout.splitlines()[-1])
    assert close_to([[row["label"], row["probability"]] for row in rows], expected["says"])
