import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from flows import monitor as monitor_flow
from flows import predict as predict_flow
from flows.monitoring.drift_check import MonitorResult, check_monitor
from flows.predict import collect_precision_tags, warn_changed_classes
from flows.prediction.table_writer import check_prediction
from flows.project.project import Project
from flows.promotion import model_registry
from flows.promotion.model_registry import Version
from imageset.exceptions import UserError
from imageset.sources import files
from tests.helpers.images import write_digit_images
from tests.helpers.models import make_untrained_bundle
from tests.helpers.processes import obey_hangup
from tests.helpers.project import copy_params


def test_the_version_carries_what_was_seen_of_a_faster_precision_and_says_it_once():
    found = {
        "engine": "openvino", "precision": "bf16", "seen": "agrees with fp32 on 99.60% of 250 validation pictures",
        "refused": {"openvino int8": "agrees with fp32 on 97.00%", "pytorch int8": "pytorch runs no int8 here"},
    }  # fmt: skip
    tags = collect_precision_tags(Version("digits", 1, ""), found)
    assert tags == {
        "convoy.precision.bf16": "openvino, used: agrees with fp32 on 99.60% of 250 validation pictures",
        "convoy.precision.int8": "openvino, not used: agrees with fp32 on 97.00%",
    }
    assert collect_precision_tags(Version("digits", 1, "", None, tags), found) == {}
    plain = {"engine": "onnxruntime", "precision": "fp32", "seen": "differs by 6e-08", "refused": {}}
    assert collect_precision_tags(Version("digits", 1, ""), plain) == {}


def test_a_model_whose_classes_are_not_the_datasets_any_more_is_warned_of_in_one_line(tmp_path, caplog):
    bundle = make_untrained_bundle(tmp_path)
    path = tmp_path / "data/normalized/dataset.json"
    path.parent.mkdir(parents=True)
    for classes in (list("0123456789"), [*"012345678", "nine"]):
        path.write_text(json.dumps({"name": "digits", "classes": classes}))
        warn_changed_classes(Version("digits", 3, "a"), bundle, Project(tmp_path))
    assert caplog.messages == [
        "predict: digits version 3 has other classes than data/normalized: it does not know nine; 9 is no class "
        "any more; `convoy run` trains on the classes of today and promotes; until then it predicts the classes "
        "that it knows"
    ]


def test_the_name_of_the_model_is_that_of_the_dataset(tmp_path):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text('{"name": "flowers"}')
    assert Project(tmp_path).read_dataset_name() == "flowers"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name'])
def test_a_broken_dataset_is_named(tmp_path, text):
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: broken .*dvc repro -f normalize"):
        Project(tmp_path).read_dataset_name()


def test_without_a_dataset_the_way_to_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match="convoy run FOLDER"):
        Project(tmp_path).require_dataset()
    copy_params(tmp_path, "pets")
    assert Project(tmp_path).read_dataset_name() == "pets"


@pytest.fixture
def listings(monkeypatch):
    """The folders that a command lists, in order."""
    folders: list[str] = []
    list_folder = files._list_folder

    def counting(folder, *arguments):
        folders.append(os.fsdecode(folder))
        return list_folder(folder, *arguments)

    monkeypatch.setattr(files, "_list_folder", counting)
    return folders


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model in place of the registry's, and a project without servers."""
    bundle, version = make_untrained_bundle(tmp_path), Version("digits", 1, "")
    copy_params(tmp_path)
    for module, task in ((predict_flow, "predict_source"), (monitor_flow, "compare_source")):
        monkeypatch.setattr(module, task, getattr(module, task).fn)
    monkeypatch.setattr(Project, "find", lambda: Project(tmp_path))
    monkeypatch.setattr(Project, "read_dataset_name", lambda self: "digits")
    monkeypatch.setattr(predict_flow, "find_model", lambda name, project: version)
    monkeypatch.setattr(monitor_flow, "find_champion", lambda name, project: version)
    monkeypatch.setattr(predict_flow.concurrency, "acquire_limits", lambda *names: nullcontext())
    monkeypatch.setattr(predict_flow.artifacts, "publish_markdown", lambda *arguments: None)
    monkeypatch.setattr(model_registry, "connect_registry", lambda project: None)
    monkeypatch.setattr(model_registry, "load_version_bundle", lambda version: bundle)
    monkeypatch.setattr(model_registry, "set_version_tags", lambda *arguments: None)
    return bundle


def test_a_prediction_lists_its_folder_once(model, listings, tmp_path):
    source = write_digit_images(tmp_path / "pictures", classes="01", num_each=3)
    out = tmp_path / "out.parquet"
    check_prediction(str(source), str(out))  # the command does, before it starts a server
    options = {"engine": "pytorch", "precision": "fp32", "review": 2, "tag": "xmp"}
    result = predict_flow.predict.fn(str(source), str(out), **options)
    assert (result.num_rows, result.num_errors) == (6, 0)
    assert len(list((tmp_path / "out.review" / "data").iterdir())) == 2
    assert len(list((tmp_path / "out.tagged").rglob("*.png"))) == 6
    assert sorted(listings) == [str(source), str(source / "0"), str(source / "1")]


def test_files_that_are_passed_over_stand_in_the_result_and_some_files_are_a_source(model, tmp_path):
    source = write_digit_images(tmp_path / "pictures", classes="01", num_each=2)
    for name in ("link.png", "folder"):
        (source / name).symlink_to("0")
    (source / "notes.txt").write_text("x")
    options = {"out": str(tmp_path / "out.csv"), "engine": "pytorch", "precision": "fp32"}
    result = predict_flow.predict.fn(str(source), **options)
    assert str(result).endswith("0 of them errors; passed over: 1 file of another kind, 2 links")
    assert result.to_dict()["passed_over"] == {"files of other kinds": 1, "links": 2}
    result = predict_flow.predict.fn([str(path) for path in sorted(source.glob("[01]/*"))[:3]], **options)
    assert (result.num_rows, dict(result.passed_over)) == (3, {})


def test_a_comparison_lists_its_folder_once(model, listings, tmp_path, monkeypatch):
    source = write_digit_images(tmp_path / "pictures", classes="01", num_each=3)

    def read_everything(source, rows, images, *arguments):
        assert [row["uri"] for row in rows] == [image.uri for image, _ in images]
        return MonitorResult(source, None)

    monkeypatch.setattr(monitor_flow, "check_batch", read_everything)
    check_monitor(str(source), None)  # the command does, before it starts a server
    monitor_flow.monitor.fn(str(source))
    assert sorted(listings) == [str(source), str(source / "0"), str(source / "1")]


def start_imagenet(folder: Path, pictures: Path, *options: str) -> subprocess.Popen[str]:
    """Start a prediction with the installed network, in a folder that is no project."""
    words = ["predict", str(pictures), "--model", "imagenet", "--out", "out.parquet", *options]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=obey_hangup,
    )  # fmt: skip


@pytest.mark.long
def test_two_predictions_into_one_table_wait_for_each_other_whatever_their_engines(tmp_path):
    pictures = write_digit_images(tmp_path / "pictures")
    engines = ("pytorch", "onnxruntime")
    running = [start_imagenet(tmp_path, pictures, "--engine", engine) for engine in engines]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    (waited,) = [
        line for output in outputs for line in output.splitlines() if "is being written by process" in line
    ]
    assert any(f"by process {process.pid} on" in waited for process in running)
    table = pq.read_table(tmp_path / "out.parquet")
    assert len(table) == len(list(pictures.rglob("*.png"))) == len(set(table["uri"].to_pylist()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.parquet", "pictures"]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_prediction_with_its_workers_and_the_next_one_goes_on(tmp_path, number):
    pictures = write_digit_images(tmp_path / "pictures", "0123456789", 150)
    process = start_imagenet(tmp_path, pictures, "--verbose")
    lines = iter(process.stdout)
    assert any("tags " in line for line in lines)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output = "".join(lines)
    assert process.wait() == 128 + number, output
    assert "Traceback" not in output and output.endswith("stopped\n")
    assert not any(worker.is_running() for worker in workers)
    assert not (tmp_path / "out.parquet").exists()
    again = start_imagenet(tmp_path, pictures)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.parquet", "pictures"]
