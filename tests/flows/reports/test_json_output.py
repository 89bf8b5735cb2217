import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.reports import json_output
from flows.reports.json_output import format_json
from tests.helpers.images import write_digit_images

# Scripts rely on these: a key is added, never renamed.
KEYS = {
    "status": {
        "project", "serving", "tested", "drift", "data", "trained", "last_run", "last_failed_run", "next_run",
        "unfinished_training", "full_check", "servers", "problems",
    },
    "history": {"at", "decisions", "served"},
    "check": {
        "source", "problem", "num_pictures", "num_sound", "classes", "splits", "refused", "passed_over",
        "short_sides_px", "max_reject_fraction", "near_duplicates", "warnings", "run_splits", "split_problem",
        "project_problem", "test_power", "size_px", "channels", "networks", "reasons", "stops", "ranges",
        "sequences",
    },
    "compare": {"runs", "gained", "lost", "num_shared"},
    "predict": {
        "out", "num_rows", "num_errors", "num_abstained", "passed_over", "model", "version", "run_id", "drift",
    },
}  # fmt: skip


def test_the_keys_are_those_that_the_help_names():
    assert {command: set(keys) for command, keys in json_output.KEYS.items()} == KEYS


@pytest.fixture(scope="module")
def copy(served, tmp_path_factory) -> Path:
    """A copy of the served project."""
    project = tmp_path_factory.mktemp("json") / "project"
    shutil.copytree(served.folder, project, ignore=shutil.ignore_patterns(".cache"))
    return project


def run_json(project: Path, *arguments: str, **environment: str) -> tuple[int, dict, str]:
    """The status, the document on stdout, and stderr of a command with `--json`."""
    from flows.orchestration.subprocesses import build_environment

    done = subprocess.run(
        [sys.executable, "-m", "flows", *arguments, "--json"], cwd=project, capture_output=True, text=True,
        env=build_environment(**environment), timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


def test_status_history_and_compare_print_one_document_with_stable_keys(copy):
    run_id = json.loads((copy / "data/models/classifier/run.json").read_text())["run_id"]
    documents = {}
    for command in (["status"], ["history"], ["compare", run_id, run_id[:8]]):
        status, documents[command[0]], _ = run_json(copy, *command)
        assert (status, set(documents[command[0]])) == (0, KEYS[command[0]])
    assert documents["status"]["serving"][0].keys() == {"model", "version", "since", "reason"}
    assert documents["status"]["serving"][0]["version"] == 1
    keys = {"name", "raw_version", "source", "num_pictures", "fingerprint", "labels"}
    assert set(documents["status"]["data"]) == keys
    (decision,) = documents["history"]["decisions"]
    assert set(decision) == {
        "number", "time", "event", "model", "version", "run_id", "serves", "champion_before", "champion_after",
        "reason", "who", "completed",
    }  # fmt: skip
    assert (decision["version"], decision["run_id"], decision["completed"]) == (1, run_id, True)
    first, second = documents["compare"]["runs"]
    assert first == second and set(first) == {
        "run_id", "status", "data", "commit", "params", "metrics", "recalls"
    }  # fmt: skip
    assert isinstance(first["metrics"]["test_accuracy"], float)


def test_what_served_at_a_date_is_a_document_too(copy):
    status, document, _ = run_json(copy, "history", "--at", "2020-01-01")
    served = {"model": "digits-few", "version": None, "since": None, "reason": None, "who": None}
    assert (status, document) == (0, {"at": "2020-01-01", "decisions": None, "served": [served]})


def test_predict_prints_one_document_and_its_log_to_stderr(copy, tmp_path, prefect_server):
    pictures = write_digit_images(tmp_path / "new", classes="3", num_each=3)
    status, document, log = run_json(
        copy, "predict", str(pictures), "--out", str(tmp_path / "out.csv"), PREFECT_API_URL=prefect_server
    )
    assert (status, set(document)) == (0, KEYS["predict"])
    assert (document["num_rows"], document["model"], document["version"]) == (3, "digits-few", 1)
    assert "predict: digits-few version 1 tags 3 pictures" in log


def test_check_exits_with_1_where_run_would_refuse_and_says_what_run_would_choose(copy, served, tmp_path):
    status, document, _ = run_json(copy, "check", str(served.pictures), "--report", str(tmp_path / "report.json"))
    assert (status, set(document)) == (0, KEYS["check"])
    assert json.loads((tmp_path / "report.json").read_text()) == document
    assert (document["size_px"], document["channels"], document["networks"]) == (32, 1, ["ConvNet"])
    assert sum(document["run_splits"].values()) == 150 and document["stops"] is None
    one_class = write_digit_images(tmp_path / "one", classes="3", num_each=2)
    status, document, _ = run_json(copy, "check", str(one_class))
    assert status == 1 and "single class" in document["stops"]
    other = write_digit_images(tmp_path / "other", classes="34", num_each=20)
    status, document, _ = run_json(copy, "check", str(other))
    assert status == 1 and "--replace-source" in document["stops"]


@pytest.mark.parametrize(
    "arguments",
    [["check", "nowhere"], ["predict", "nowhere"], ["compare", "abc", "abd"], ["history", "--at", "x"]],
)
def test_bad_input_is_one_line_on_stderr_with_json_too(copy, arguments, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: ")


def test_a_number_that_is_not_finite_is_null():
    assert json.loads(format_json({"a": [float("nan"), 1.5], "b": float("inf")})) == {"a": [None, 1.5], "b": None}


@pytest.mark.parametrize(
    ("model", "networks"),
    [
        ({"network": "auto", "weights": "auto"}, ["efficientnet_lite0", "ConvNet"]),
        ({"network": "auto", "weights": None}, ["ConvNet"]),
        ({"network": "auto", "weights": "DEFAULT"}, ["efficientnet_lite0"]),
        ({"network": "LeNet5", "weights": None}, ["LeNet5"]),
        ({"network": {"class_path": "mine.Net"}}, ["mine.Net"]),
    ],
)
def test_the_networks_are_those_that_the_training_tries(model, networks):
    from flows.versioning import source_check
    from lightning_modules.networks.registry import INSTALLED_ALIAS
    from lightning_modules.training.auto_network import SCRATCH_NETWORK

    assert source_check.list_network_candidates({"model": model}) == networks
    assert (source_check.PRETRAINED_NETWORK, source_check.SCRATCH_NETWORK) == (INSTALLED_ALIAS, SCRATCH_NETWORK)
