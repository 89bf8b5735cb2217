import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from imageset.raw.shards import read_image_bytes
from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle, hash_manifest
from lightning_modules.inference.stream import score_stream
from lightning_modules.scoring import Scorer
from lightning_modules.tracking.client import connect_to_mlflow
from lightning_modules.tracking.restoration.restored_run import find_restored_runs
from tests.helpers.project import ROOT, run_stage, set_params


def metrics(project):
    return json.loads((project / "metrics.json").read_text())


def run_of(project):
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    client = connect_to_mlflow(project)
    return client, client.get_run(note["run_id"])


def test_the_numbers_in_mlflow_are_those_of_metrics_json(trained):
    _, run = run_of(trained)
    assert run.data.metrics["test_accuracy"] == metrics(trained)["test"]["accuracy"]
    assert run.data.metrics["recall_7"] == metrics(trained)["recall"]["7"]


def test_the_accuracy_is_that_of_the_predictions_written_beside_it(trained):
    with (trained / "data/models/report/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert len(rows) == metrics(trained)["num_test"]
    assert right / len(rows) == pytest.approx(metrics(trained)["test"]["accuracy"], abs=1e-6)


def test_the_report_that_dvc_keeps_is_in_the_run_too(trained):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    kept = list(stages["evaluate"]["outs"])
    assert [path for path in kept if not (trained / path).is_file()] == []
    client, run = run_of(trained)
    logged = {f"data/models/{file.path}" for file in client.list_artifacts(run.info.run_id, "report")}
    assert set(kept) <= logged
    assert (trained / "data/models/report/confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_every_number_is_finite_and_none_is_called_error(trained):
    def leaves(tree, path=()):
        for name, value in tree.items():
            yield from leaves(value, (*path, name)) if isinstance(value, dict) else [((*path, name), value)]

    found = list(leaves(metrics(trained)))
    assert len(found) > 20 and all(np.isfinite(value) for _, value in found)
    assert not any("error" in path for path, _ in found)
    assert {"accuracy", "loss", "macro_recall", "macro_f1", "macro_auroc", "top_5_accuracy", "ece"} <= set(
        metrics(trained)["test"]
    )


def test_each_interval_holds_its_number(trained):
    numbers = metrics(trained)
    assert {"accuracy", "macro_f1"} <= numbers["interval"].keys()
    for name, interval in numbers["interval"].items():
        assert interval["low"] <= numbers["test"][name] + 1e-6 and numbers["test"][name] <= interval["high"] + 1e-6


def test_the_temperature_of_the_bundle_makes_its_probabilities_more_honest(trained):
    test = metrics(trained)["test"]
    assert test["temperature"] == Bundle.load(trained / "data/models/classifier").info.temperature != 1
    assert test["ece"] < test["ece_uncalibrated"]


def test_the_probabilities_of_the_report_are_those_that_are_served(trained):
    store = ImageStore.open(trained / "data/normalized")
    split = store.split("test")
    scorer = Scorer(Bundle.load(trained / "data/models/classifier"))
    served = scorer.probabilities(split.read_batch(np.arange(len(split)))).max(axis=1)
    with (trained / "data/models/report/predictions.csv").open() as file:
        written = [float(row["probability"]) for row in csv.DictReader(file)]
    assert np.allclose(served, written, atol=1e-4)


def test_a_slice_by_a_column_that_there_is_not_is_named(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    set_params(project, evaluate__slices=["gruop"])
    code, output = run_stage(project, "test")
    assert code == 2
    assert "evaluate.slices: no column 'gruop'; did you mean 'group'?" in output


def test_pictures_score_the_same_from_their_files_as_in_the_test(trained):
    store = ImageStore.open(trained / "data/normalized")
    split = store.split("test")
    bundle = Bundle.load(trained / "data/models/classifier")
    items = read_image_bytes(trained / "data/raw", split.image_ids)
    scored = {s.key: s.probabilities for s in score_stream(bundle, items, batch_size=50, num_workers=1)}
    right = sum(scored[i].argmax() == label for i, label in zip(split.image_ids, split.labels, strict=True))
    assert right / len(split) == pytest.approx(metrics(trained)["test"]["accuracy"], abs=1e-6)


def test_the_bundle_says_which_data_code_and_environment_it_is_from(trained):
    info = Bundle.load(trained / "data/models/classifier").info
    store = ImageStore.open(trained / "data/normalized")
    assert info.dataset["fingerprint"] == store.fingerprint and len(info.dataset["digest"]) == 32
    assert set(info.metrics) == {"val_loss", "val_accuracy"}
    assert info.fitted_splits == ("train",)
    client, run = run_of(trained)
    seen = client.download_artifacts(run.info.run_id, "training/pictures.parquet")
    assert pq.read_table(seen)["image_id"].to_pylist() == [
        bytes.fromhex(one) for one in store.split("train").image_ids
    ]


def test_a_bundle_of_other_classes_is_refused(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    manifest = project / "data/models/classifier/bundle.json"
    content = json.loads(manifest.read_text())
    content["info"]["classes"][0] = "zero"
    content["sha256"] = hash_manifest(content)
    manifest.write_text(json.dumps(content))
    code, output = run_stage(project, "test")
    assert code == 2
    assert "trained for the classes ['zero', '1'" in output and "Traceback" not in output


def test_a_run_that_mlflow_lost_is_restored_once_and_named(trained, tmp_path, empty_mlflow_db):
    project = shutil.copytree(trained, tmp_path / "project")
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    lost = json.loads((project / "data/models/classifier/run.json").read_text())["run_id"]
    named = []
    for _ in range(2):
        code, output = run_stage(project, "test")
        assert code == 0, output
        named.append(f"mlflow: run {lost[:12]} of " in output)
    assert named == [True, False]
    (run,) = find_restored_runs(connect_to_mlflow(project), lost)
    assert run.data.metrics["test_accuracy"] == metrics(project)["test"]["accuracy"]
    assert run.data.params == run_of(trained)[1].data.params


def test_an_unknown_key_of_evaluate_is_named(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    set_params(project, evaluate__data__batchsize=1)
    code, output = run_stage(project, "test")
    assert code == 2
    assert "evaluate: unknown key 'data.batchsize'; did you mean 'data.batch_size'?" in output


def test_the_baselines_and_the_risk_coverage_curve_are_measured_and_logged(trained):
    numbers = metrics(trained)
    labels = ImageStore.open(trained / "data/normalized").split("test").labels
    assert numbers["test"]["baseline_accuracy"] == np.bincount(labels).max() / len(labels)
    assert numbers["test"]["baseline_loss"] == pytest.approx(np.log(10), abs=0.1)
    assert numbers["abstention"]["accuracy_of_best_50_percent"] >= numbers["test"]["accuracy"]
    assert "coverage" not in numbers["abstention"]
    logged = run_of(trained)[1].data.metrics
    assert logged["test_baseline_accuracy"] == numbers["test"]["baseline_accuracy"]
    assert logged["abstention_area_under_risk"] == numbers["abstention"]["area_under_risk"]
    with (trained / "data/models/report/risk_coverage.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["coverage"]) == 1
    assert float(last["accuracy"]) == pytest.approx(numbers["test"]["accuracy"], abs=1e-6)


def test_a_threshold_for_abstaining_changes_no_accuracy_and_says_what_it_answers(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    manifest = project / "data/models/classifier/bundle.json"
    content = json.loads(manifest.read_text())
    content["info"]["abstain_below"] = 0.9
    content["sha256"] = hash_manifest(content)
    manifest.write_text(json.dumps(content))
    code, output = run_stage(project, "test")
    assert code == 0, output
    before, after = metrics(trained), metrics(project)
    assert after["test"]["accuracy"] == before["test"]["accuracy"]
    with (project / "data/models/report/predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["probability"]) >= 0.9]
    assert after["abstention"]["coverage"] == pytest.approx(len(rows) / after["num_test"])
    right = np.mean([row["actual"] == row["predicted"] for row in rows])
    assert after["abstention"]["selective_accuracy"] == pytest.approx(right)
    assert f"; with abstain_below 0.9 it answers {len(rows) / after['num_test']:.0%}, of those " in output
