import json
import sqlite3
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from flows.notifications import webhooks
from flows.orchestration.prefect_server import find_free_port
from flows.project.project import Project
from flows.promotion import alias_updates, ledger, model_registry
from flows.reports.status import read_status, report_status
from lightning_modules.tracking.offline_run import OfflineRun


def lines_of(project) -> dict[str, str]:
    """The lines by their first word; the last one of each."""
    return dict(line.split(maxsplit=1) for line in report_status(Project(project)).splitlines())


@pytest.fixture(autouse=True)
def params(tmp_path):
    (tmp_path / "params.yaml").write_text("name: digits\n")


@pytest.fixture
def serving(project):
    """A project in which version 1 of `digits` was promoted."""
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    for run in ("a", "b"):
        client.create_model_version("digits", "/nowhere", run)
    entry = {"event": ledger.DECISION, "model": "digits", "version": 1, "serves": True, "reason": "the first"}
    with alias_updates.alias_lock(Project(project)):
        alias_updates.update_aliases(client, Project(project), entry, {}, lambda before: {"champion": 1})
    return project


def test_an_empty_project_serves_nothing_and_nothing_is_wrong(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = lines_of(tmp_path)
    assert said["serving"].startswith("nothing") and said["data"] == "nothing was ingested yet"
    assert (said["last"], said["problems"]) == ("run  none", "none")


def test_the_network_of_the_last_training_is_named(tmp_path):
    path = tmp_path / "data/models/classifier/bundle.json"
    path.parent.mkdir(parents=True)
    network = {"class_path": "lightning_modules.networks.ConvNet", "init_args": {}}
    info = {"network": network, "dataset": {"name": "digits"}, "metrics": {"val_accuracy": 0.5, "train_loss": 1}}
    path.write_text(json.dumps({"info": info}))
    assert lines_of(tmp_path)["trained"] == "ConvNet on digits; val_accuracy 0.5000"
    network["init_args"]["name"] = "resnet18"
    path.write_text(json.dumps({"info": info}))
    assert lines_of(tmp_path)["trained"].startswith("resnet18 on digits")
    path.write_text("{}")
    assert "trained" not in lines_of(tmp_path)
    assert any("bundle.json: broken" in line for line in report_status(Project(tmp_path)).splitlines())


def test_the_test_accuracy_stands_beside_its_baseline(tmp_path):
    path = tmp_path / "data/models/classifier/bundle.json"
    path.parent.mkdir(parents=True)
    network = {"class_path": "lightning_modules.networks.ConvNet", "init_args": {}}
    info = {"network": network, "dataset": {"name": "digits"}, "metrics": {"val_accuracy": 0.5}}
    path.write_text(json.dumps({"info": info}))
    test = {"accuracy": 0.75, "baseline_accuracy": 0.25}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": test}))
    trained = "ConvNet on digits; val_accuracy 0.5000; test accuracy 0.7500 (baseline 0.2500)"
    assert lines_of(tmp_path)["trained"] == trained
    assert read_status(Project(tmp_path)).to_dict()["trained"]["test"] == test
    test |= {"map": 0.8, "baseline_map": 0.7}
    (tmp_path / "metrics.json").write_text(json.dumps({"test": test}))
    assert "; test mAP 0.8000 (baseline 0.7000); test acc" in lines_of(tmp_path)["trained"]


def test_a_first_model_that_does_not_serve_is_named_with_its_reason(project):
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    client.create_model_version("digits", "/nowhere", "a")
    entry = {"event": ledger.DECISION, "model": "digits", "version": 1, "serves": False, "reason": "no better"}
    with alias_updates.alias_lock(Project(project)):
        alias_updates.update_aliases(client, Project(project), entry, {}, lambda before: {"challenger": 1})
    assert lines_of(project)["serving"] == "nothing; digits version 1 is a challenger: no better"


@pytest.mark.parametrize("classes", [["0", "one"], ["1", "0"]])
def test_a_champion_whose_classes_are_not_those_of_the_dataset_is_a_problem(project, classes):
    path = project / "data/normalized/dataset.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"name": "digits", "classes": classes}))
    client = model_registry.connect_registry(Project(project))
    client.create_registered_model("digits")
    client.create_model_version("digits", "/nowhere", "a")
    entry = {"event": ledger.DECISION, "model": "digits", "version": 1, "serves": True, "reason": "the first",
             "classes": ["0", "1"]}  # fmt: skip
    with alias_updates.alias_lock(Project(project)):
        alias_updates.update_aliases(client, Project(project), entry, {}, lambda before: {"champion": 1})
    changed = [line for line in read_status(Project(project)).problems if "has other classes" in line]
    expected = (
        "digits version 1 has other classes than data/normalized: it does not know one; 1 is no class any more; "
        "`convoy run` trains on the classes of today and promotes"
    )
    assert changed == ([expected] if "one" in classes else [])


def test_a_params_yaml_that_cannot_be_read_is_a_problem_and_the_rest_is_reported(serving):
    (serving / "params.yaml").write_text("name: [")
    said = lines_of(serving)
    assert "params.yaml: not readable as YAML" in said["problems"] and "digits version 1" in said["serving"]


def test_models_and_runs_of_other_projects_in_the_store_are_left_out(serving):
    client = model_registry.connect_registry(Project(serving))
    client.create_registered_model("cats")
    client.create_model_version("cats", "/nowhere", "c")
    client.set_registered_model_alias("cats", "champion", "1")
    prefect_database(serving, ("ours", "COMPLETED", "2026-01-01", ""), ("theirs", "COMPLETED", "2026-01-02", ""))
    with sqlite3.connect(serving / ".cache/prefect.db") as database:
        database.execute("""UPDATE flow_run SET tags = '["project:cats", "x"]' WHERE name = 'theirs'""")
    text = report_status(Project(serving))
    assert "cats" not in text and "(ours)" in text


def test_what_serves_since_when_and_why(serving):
    assert lines_of(serving)["serving"].startswith("digits version 1 since 20")
    assert lines_of(serving)["serving"].endswith(": the first")


def test_what_serves_is_known_where_a_process_was_killed_while_it_wrote(serving):
    code = (
        "import os, sqlite3\n"
        "store = sqlite3.connect('mlflow.db', isolation_level=None)\n"
        "store.execute('PRAGMA cache_size = 1')\n"  # what is changed goes to the file before the end
        "store.execute('BEGIN')\n"
        "rows = [('k' * 200, 'v' * 2000, str(n)) for n in range(200)]\n"
        "store.executemany('INSERT INTO tags VALUES (?, ?, ?)', rows)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=serving, check=False)
    assert (serving / "mlflow.db-journal").stat().st_size > 0
    said = lines_of(serving)
    assert said["serving"].startswith("digits version 1 since 20")
    assert "cannot be read" not in said["problems"]


def test_an_alias_that_somebody_moved_by_hand_is_named(serving):
    model_registry.connect_registry(Project(serving)).set_registered_model_alias("digits", "champion", "2")
    said = lines_of(serving)
    assert said["serving"] == "digits version 2; the ledger does not record since when"
    assert "version 2 serves, but the ledger records version 1" in said["problems"]


def test_a_decision_that_was_cut_short_and_a_ledger_that_was_changed_are_named(serving):
    path = serving / ledger.LEDGER
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert "is unfinished" in lines_of(serving)["problems"]
    path.write_text(path.read_text().replace("the first", "another"))
    ledger_line = '{"number": 2, "follows": "x"}\n'
    path.write_text(path.read_text() + ledger_line)
    assert "line 2 does not follow" in lines_of(serving)["problems"]


def test_an_mlflow_server_is_asked_and_one_that_is_away_is_named(project, monkeypatch):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            aliases = [{"alias": "champion", "version": "7"}]
            self.wfile.write(json.dumps({"registered_models": [{"name": "digits", "aliases": aliases}]}).encode())

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    assert lines_of(project)["serving"].startswith("digits version 7")
    server.shutdown()
    server.server_close()
    assert "cannot be read" in lines_of(project)["problems"]


def test_what_served_last_is_said_where_mlflow_cannot_be_read(serving, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{find_free_port()}")
    said = lines_of(serving)
    assert said["serving"] == "digits version 1 by the ledger; MLflow cannot be read now"
    assert "cannot be read" in said["problems"]


def test_a_half_made_file_of_mlflow_is_named_with_what_mends_it(project):
    with sqlite3.connect(project / "half.db") as database:
        database.execute("CREATE TABLE runs (run_uuid)")
    (project / "half.db").replace(project / "mlflow.db")
    assert "mlflow.db: is incomplete, since a process was killed" in lines_of(project)["problems"]


def prefect_database(project, *runs) -> None:
    """Prefect's file with flow runs (name, state, start, message)."""
    (project / ".cache").mkdir(exist_ok=True)
    with sqlite3.connect(project / ".cache/prefect.db") as database:
        database.execute("CREATE TABLE flow (id, name)")
        database.execute("CREATE TABLE flow_run (id, flow_id, name, state_type, state_id, start_time, end_time,"
                         " expected_start_time, parent_task_run_id, tags)")  # fmt: skip
        database.execute("CREATE TABLE flow_run_state (id, message)")
        database.execute("INSERT INTO flow VALUES (1, 'pipeline')")
        for number, (name, state, start, message) in enumerate(runs):
            began = None if state == "SCHEDULED" else start
            database.execute("INSERT INTO flow_run VALUES (?, 1, ?, ?, ?, ?, ?, ?, NULL, '[]')",
                             (number, name, state, number, began, began, start))  # fmt: skip
            database.execute("INSERT INTO flow_run_state VALUES (?, ?)", (number, message))


def test_the_last_run_the_last_failure_and_the_next_run(project):
    prefect_database(
        project,
        ("quick-fox", "COMPLETED", "2026-03-01 02:00:00.000000", "All states completed."),
        ("slow-hen", "FAILED", "2026-03-02 02:00:00.000000", "UserError: data/raw: gone"),
        ("next-owl", "SCHEDULED", "2999-03-03 02:00:00.000000", None),
    )
    said = lines_of(project)
    assert said["last"].startswith("run  pipeline (slow-hen) failed, started 2026-03-02")
    assert said["failed"].endswith("UserError: data/raw: gone")
    assert said["next"].startswith("pipeline at 2999-03-03")
    assert "pipeline failed last time" in said["problems"]


def test_a_failure_that_was_mended_is_not_wrong_any_more(project):
    prefect_database(
        project,
        ("slow-hen", "CRASHED", "2026-03-02 02:00:00.000000", "killed"),
        ("quick-fox", "COMPLETED", "2026-03-03 02:00:00.000000", None),
    )
    said = lines_of(project)
    assert said["failed"].startswith("pipeline (slow-hen) crashed") and said["problems"] == "none"


def test_what_did_not_get_where_it_was_to_go_is_named_until_it_did(project, monkeypatch):
    for event in ("failure", "failure"):
        (project / "params.yaml").write_text(
            f"hooks:\n  on_failure: http://127.0.0.1:{find_free_port()}/secret\n  on_promotion: null\n"
        )
        assert webhooks.post_webhook(Project(project), webhooks.ON_FAILURE, {"event": event}) is False
    said = lines_of(project)["problems"]
    assert said.startswith("hook on_failure: 127.0.0.1 did not accept the message (failure: ")
    assert "give another address in params.yaml: hooks.on_failure (2 times" in said
    assert "secret" not in said
    (project / "params.yaml").write_text("hooks:\n  on_failure: null\n  on_promotion: null\n")
    webhooks.post_webhook(Project(project), webhooks.ON_FAILURE, {"event": "failure"})
    assert lines_of(project)["problems"] == "none"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{find_free_port()}")
    run = OfflineRun.open(project, "digits", None, "a training", {})
    run.log_metrics({"val_loss": 0.5}, 1)
    run.close("FINISHED")
    wrong = [
        line for line in report_status(Project(project)).splitlines() if "entries wait for MLflow's server" in line
    ]
    assert wrong == [f"problems  3 entries wait for MLflow's server, of 1 run ({run.run_id}); `convoy sync` sends "
                     "them when it is available again"]  # fmt: skip


def test_the_tables_are_those_that_prefect_makes(project):
    import sqlalchemy
    from prefect.server.database.orm_models import Base

    (project / ".cache").mkdir()
    engine = sqlalchemy.create_engine(f"sqlite:///{project / '.cache/prefect.db'}")
    tables = [Base.metadata.tables[name] for name in ("flow", "flow_run", "flow_run_state")]
    Base.metadata.create_all(engine, tables=tables)
    engine.dispose()
    assert lines_of(project)["last"] == "run  none" and lines_of(project)["problems"] == "none"


def test_a_project_whose_data_dvc_cannot_version_is_a_problem(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    assert (
        "is not in a git repository, which DVC needs; `git init` there makes one" in lines_of(tmp_path)["problems"]
    )
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert lines_of(tmp_path)["problems"] == "none"
