"""Everything on servers as they stand in production: see tests/helpers/production.py and docs/production.md."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg2
import pytest

from flows.orchestration.prefect_api import HOST
from flows.orchestration.prefect_server import find_free_port
from flows.project.project import Project
from imageset.html.png import encode_png
from imageset.sources.benchmark_sets.digits import load_digit_images
from tests.helpers.production import (
    BUCKET,
    Production,
    explain_missing_postgres,
    explain_missing_s3,
    run_production,
)
from tests.helpers.project import make_project, run_convoy

WHY_NOT = explain_missing_postgres() or explain_missing_s3()
pytestmark = [pytest.mark.long, pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]  # `make servers`


@dataclass
class Real:
    """Servers, a project that uses them, its pictures and its origin."""

    servers: Production
    folder: Path
    pictures: Path
    origin: Path
    output: str = ""

    def call(
        self, *arguments: str, folder: Path | None = None, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        return run_convoy(folder or self.folder, *arguments, **{**self.servers.environment(), **changes})

    def begin(self, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
        env = {**os.environ, **self.servers.environment()}
        return subprocess.Popen([sys.executable, "-m", "flows", *arguments], cwd=folder or self.folder, env=env,
                                text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def run(self, *command: str, folder: Path | None = None, **changes: str) -> str:
        """Another program than convoy; git, dvc, prefect."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, **self.servers.environment(), "PATH": path, "DVC_NO_ANALYTICS": "1", **changes}
        done = subprocess.run(command, cwd=folder or self.folder, env=env, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=600, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ask(self, database: str, query: str) -> list[tuple[object, ...]]:
        """Rows of a table in PostgreSQL."""
        connection = psycopg2.connect(f"postgresql://{self.servers.database}/{database}")
        try:
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall()
        finally:
            connection.close()

    def champion(self) -> int:
        query = "SELECT version FROM registered_model_aliases WHERE alias = 'champion' AND name = 'digits'"
        return int(str(self.ask("mlflow", query)[0][0]))

    def states(self) -> dict[str, str]:
        """Flow run -> its state, as Prefect's tables say."""
        return {
            str(name): str(state) for name, state in self.ask("prefect", "SELECT id, state_type FROM flow_run")
        }


def write_digits(folder: Path, first: int, last: int, classes: str = "012") -> Path:
    """Handwritten digits of each class, from the first to before the last."""
    pixels, labels = load_digit_images()
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in (labels == int(label)).nonzero()[0][first:last]:
            (folder / label / f"{number:04d}.png").write_bytes(encode_png(pixels[number]))
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """`convoy run` was called once: pushed to S3, committed, and pushed to origin."""
    place = tmp_path_factory.mktemp("servers")
    with run_production(place / "production") as servers:
        folder = place / "project"
        folder.mkdir()
        pictures = write_digits(place / "digits", 0, 50)
        it = Real(servers, make_project(folder, "digits"), pictures, place / "origin.git")
        params = (it.folder / "params.yaml").read_text()
        changes = {"max_epochs: 15": "max_epochs: 3", "commit: false": "commit: true", "steps: 48": "steps: 4",
                   "resamples: 1000": "resamples: 200"}  # fmt: skip
        for one, other in changes.items():
            params = params.replace(one, other)
        (it.folder / "params.yaml").write_text(params)
        it.run("dvc", "remote", "add", "-d", "store", f"s3://{BUCKET}/dvc")
        it.run("dvc", "remote", "modify", "store", "endpointurl", servers.keys["AWS_ENDPOINT_URL"])
        git = ("git", "-c", "user.name=Test", "-c", "user.email=test@localhost")
        it.run(*git, "init", "-q", "--bare", str(it.origin))
        for arguments in ("remote add origin ../origin.git", "config branch.convoy.remote origin", "add .",
                          "commit -q -m servers"):  # fmt: skip
            it.run(*git, *arguments.split())
        done = it.call("run", str(it.pictures))
        assert done.returncode == 0, done.stdout
        it.output = done.stdout
        yield it


def test_the_model_serves_its_tables_are_in_postgresql_and_its_files_on_s3(real):
    assert "digits version 1 serves: the first model of digits" in real.output
    assert real.champion() == 1
    assert set(real.states().values()) == {"COMPLETED"}
    ((location,),) = real.ask("mlflow", "SELECT storage_location FROM model_versions")
    assert str(location).startswith("mlflow-artifacts:")
    objects = [path.relative_to(real.servers.objects).parts[0] for path in real.servers.objects.rglob("*")]
    assert {"mlflow", "dvc"} <= set(objects)
    assert list(real.servers.objects.glob("mlflow/**/*.safetensors"))
    assert not [*real.folder.glob("mlflow.db*"), *real.folder.glob("mlartifacts")]
    assert "Waiting up to" not in real.output


def test_a_fresh_clone_of_the_branch_pulls_data_and_model_from_s3(real, tmp_path):
    real.run("git", "clone", "-q", "-b", "convoy", str(real.origin), str(tmp_path / "clone"))
    real.run("dvc", "pull", "-q", folder=tmp_path / "clone")
    for name in ("data/raw/records.parquet", "data/normalized/dataset.json", "data/models/classifier/run.json"):
        assert (tmp_path / "clone" / name).read_bytes() == (real.folder / name).read_bytes()
    said = real.call("history", folder=tmp_path / "clone").stdout
    assert "digits version 1 serves: the first model of digits" in said


def test_status_names_what_serves_and_the_servers(real):
    said = real.call("status").stdout
    assert "serving   digits version 1 since" in said
    assert f"servers   MLflow {real.servers.mlflow_url}, Prefect {real.servers.prefect_url}" in said
    assert "pipeline" in said and "completed" in said and "problems  none" in said


def test_a_server_that_is_away_or_refuses_is_one_line_and_status_2(real):
    place, prefect = f"{HOST}:{find_free_port()}", real.servers.prefect_url
    none = "does not answer: Connection refused (tried for 0 s)"
    cases = {
        ("promote", "abcd", "MLFLOW_TRACKING_URI", f"http://{place}"):
            f"MLflow at http://{place} {none}",
        ("promote", "abcd", "MLFLOW_TRACKING_URI", f"postgresql://me:secret@{place}/mlflow"):
            f"MLflow at postgresql://me:***@{place}/mlflow {none}",
        ("ingest", str(real.pictures), "PREFECT_API_AUTH_STRING", "convoy:wrong"):
            f"Prefect's server at {prefect} wants a login: set PREFECT_API_AUTH_STRING",
        ("ingest", str(real.pictures), "PREFECT_API_URL", prefect.removesuffix("/api")):
            f"Prefect's server at {prefect.removesuffix('/api')} is not Prefect's API",
    }  # fmt: skip
    for (command, what, variable, value), said in cases.items():
        done = real.call(command, what, **{variable: value})
        assert (done.returncode, done.stdout.count("\n")) == (2, 1), done.stdout
        assert done.stdout.startswith(f"error: {said}"), done.stdout


def test_the_wrong_key_to_s3_is_said_by_the_push_and_nothing_is_lost(real):
    from flows.versioning import dvc_repo
    from imageset.exceptions import UserError

    changes = {"AWS_ACCESS_KEY_ID": "convoy", "AWS_SECRET_ACCESS_KEY": "wrong"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(name, value)
        with pytest.raises(UserError, match=r"dvc push failed: .*") as caught:
            dvc_repo.push_to_remote(Project(real.folder))
    assert "\n" not in str(caught.value)


def test_more_pictures_make_a_second_model_and_both_are_told_apart(real):
    write_digits(real.pictures, 50, 110)
    done = real.call("run")
    assert done.returncode == 0, done.stdout
    assert "330 pictures in 3 classes, 180 new" in done.stdout
    assert "after run: data is pushed to DVC's remote store" in done.stdout
    assert "after run: convoy is pushed to origin" in done.stdout
    one, two = (str(row[0]) for row in real.ask("mlflow", "SELECT run_id FROM model_versions ORDER BY version"))
    said = real.call("compare", one, two)
    assert said.returncode == 0 and "accuracy" in said.stdout, said.stdout
    rehearsed = real.call("promote", two, "--dry-run")
    assert rehearsed.returncode == 0, rehearsed.stdout


def test_a_table_is_predicted_by_the_version_that_serves_and_nothing_twice(real, tmp_path):
    champion = real.champion()
    done = real.call("predict", str(real.pictures), "--out", str(tmp_path / "all.parquet"))
    assert done.returncode == 0, done.stdout
    assert f"all.parquet: 330 rows by digits version {champion}, 0 of them errors" in done.stdout
    again = real.call("predict", str(real.pictures), "--out", str(tmp_path / "new.parquet"), "--new-only")
    assert "new.parquet: 0 rows" in again.stdout, again.stdout


def test_two_promotions_from_two_clones_at_once_have_one_winner_and_rollback_undoes_it(real, tmp_path):
    """One of the two has another Prefect server (its own), so that Prefect's limits do not keep them apart."""
    params = real.folder / "params.yaml"
    params.write_text(params.read_text().replace("seed_everything: 0", "seed_everything: 1"))
    done = real.call("run")  # another model of the same data
    assert done.returncode == 0, done.stdout
    clone, before = tmp_path / "clone", real.champion()
    shutil.copytree(real.folder, clone, ignore=shutil.ignore_patterns("runs", "convoy.lock", "registry.lock"))
    run_ids = [str(row[0]) for row in real.ask("mlflow", "SELECT run_id FROM model_versions ORDER BY version")]
    other = next(one for number, one in reversed(list(enumerate(run_ids, 1))) if number != before)
    env = {**real.servers.environment(), "PREFECT_API_URL": ""}
    children = [
        real.begin("promote", other, "--override", "one"),
        subprocess.Popen([sys.executable, "-m", "flows", "promote", other, "--override", "two"], cwd=clone,
                         env={**os.environ, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT),
    ]  # fmt: skip
    outputs = [child.communicate(timeout=600)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert sum("serves: o" in said or "serves: t" in said for said in outputs) >= 1, outputs
    assert sum("already serves" in said for said in outputs) == 1, outputs
    assert real.champion() == run_ids.index(other) + 1
    back = real.call("rollback", "--reason", "test")
    assert back.returncode == 0, back.stdout
    assert real.champion() == before
    assert real.ask("mlflow", "SELECT name FROM registered_models") == [("digits",)]


def test_a_run_that_was_killed_is_closed_in_both_servers_by_the_next(real):
    write_digits(real.pictures, 110, 120)
    child = real.begin("run")
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("train: epoch 1"):
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert "RUNNING" in real.states().values()
    done = real.call("run")
    assert done.returncode == 0, done.stdout
    assert "was killed and is closed as crashed" in done.stdout
    assert set(real.states().values()) <= {"COMPLETED", "CRASHED", "FAILED"}
    assert real.ask("mlflow", "SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]


def test_a_workers_inbox_and_weekly_check_run_on_these_servers(real):
    inbox = real.folder / "data" / "inbox"
    shutil.copytree(real.pictures / "1", inbox, dirs_exist_ok=True)
    env = {**os.environ, **real.servers.environment(), "PREFECT_LOGGING_EXTRA_LOGGERS": "flows"}
    prefect = str(Path(sys.executable).parent / "prefect")
    real.run(prefect, "--no-prompt", "work-pool", "create", "convoy", "--type", "process")
    real.run(prefect, "--no-prompt", "deploy", "--all")
    with (real.folder.parent / "worker.log").open("wb") as log:
        worker = subprocess.Popen([prefect, "worker", "start", "--pool", "convoy"], cwd=real.folder, env=env,
                                  stdout=log, stderr=log, start_new_session=True)  # fmt: skip
    try:
        for name in ("inbox/inbox", "full-check/weekly"):
            real.run(prefect, "deployment", "run", name)
        deadline = time.monotonic() + 400
        states: list[str] = []
        while time.monotonic() < deadline and states.count("COMPLETED") < 2 and "FAILED" not in states:
            time.sleep(2)
            query = "SELECT state_type FROM flow_run WHERE work_queue_id IS NOT NULL AND auto_scheduled = false"
            states = [str(row[0]) for row in real.ask("prefect", query)]
        assert states == ["COMPLETED", "COMPLETED"], (real.folder.parent / "worker.log").read_text()[-6000:]
        assert len(list((real.folder / "data/predictions/inbox").glob("*.parquet"))) == 1
    finally:
        os.killpg(worker.pid, signal.SIGKILL)  # its flows have ended, or the test has failed
        worker.wait()


def test_verify_trains_a_run_again_from_its_commit(real):
    run_id = real.ask("mlflow", "SELECT run_id FROM model_versions ORDER BY version")[0][0]
    done = real.call("verify", str(run_id))
    assert done.returncode == 0, done.stdout


def test_drift_trains_again_by_policy_and_a_sweep_is_one_run_with_nested_ones_on_these_servers(real, tmp_path):
    params, inbox = real.folder / "params.yaml", tmp_path / "dark"
    text = params.read_text().replace("enabled: false", "enabled: true")
    params.write_text(text.replace("batches_in_a_row: 2", "batches_in_a_row: 1"))
    write_digits(real.pictures, 130, 140)  # something to learn from
    inbox.mkdir()
    pixels, labels = load_digit_images()
    for number in np.flatnonzero(labels < 3)[-90:]:
        (inbox / f"{number:04d}.png").write_bytes(encode_png(255 - pixels[number]))
    trained = "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
    before = real.ask("mlflow", trained)[0][0]
    done = real.call("predict", str(inbox), "--out", str(tmp_path / "dark.parquet"))
    assert done.returncode == 0, done.stdout
    assert "retrain: yes" in done.stdout and "monitor: training again" in done.stdout, done.stdout
    events = [str(row[0]) for row in real.ask("prefect", "SELECT event FROM events WHERE event LIKE 'convoy%'")]
    assert any("drift" in one for one in events), events
    swept = real.call("sweep", "--trials", "2", "--processes", "1")
    assert swept.returncode == 0, swept.stdout
    nested = "SELECT count(*) FROM tags WHERE key = 'mlflow.parentRunId'"
    assert real.ask("mlflow", nested) == [(2,)]
    assert real.ask("mlflow", trained)[0][0] > before


def test_a_prefect_server_that_dies_during_a_run_costs_no_work_and_the_end_is_one_clear_line(real):
    write_digits(real.pictures, 120, 130)
    child = real.begin("run")
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        said.append(line)
        if line.startswith("train: epoch 1"):
            real.servers.prefect.stop(signal.SIGKILL)
    child.wait()
    output = "".join(said)
    assert child.returncode == 2, output
    assert "after run: data is pushed" in output
    assert said[-1].startswith(f"error: Prefect's server at {real.servers.prefect_url} no longer answers"), output
    assert "Traceback" not in output
    real.servers.prefect.start()
    real.servers.wait_for_prefect()
    again = real.call("run")
    assert again.returncode == 0, again.stdout
    assert "ended after its Prefect server was gone and is closed as crashed" in again.stdout
    assert "RUNNING" not in real.states().values()
