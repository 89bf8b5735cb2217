"""Pictures that bear several labels, from a table to predictions: real commands, one training for all tests."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sklearn.metrics import average_precision_score, f1_score

from flows.project.project import Project
from imageset.exceptions import UserError
from imageset.labels import parse_labels
from imageset.sources.factory import open_source
from imageset.store.reader import ImageStore
from lightning_modules.bundle import Bundle, save_bundle
from lightning_modules.calibration import thresholds
from lightning_modules.scoring import Scorer
from tests.helpers.project import ROOT, run_convoy

NAMES = ("one", "three", "two", "zero")


@pytest.fixture(scope="module")
def bundle(served_labels) -> Bundle:
    return Bundle.load(served_labels.folder / "data/models/classifier")


@pytest.fixture(scope="module")
def store(served_labels) -> ImageStore:
    return ImageStore.open(served_labels.folder / "data/normalized")


@pytest.fixture(scope="module")
def metrics(served_labels) -> dict:
    return json.loads((served_labels.folder / "metrics.json").read_text())


@pytest.fixture
def copy(served_labels, tmp_path, monkeypatch) -> Path:
    """A copy of the project, to promote in."""
    project = tmp_path / "project"
    shutil.copytree(served_labels.folder, project, ignore=shutil.ignore_patterns(".git", ".cache", "mlartifacts"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(project)
    return project


def test_a_table_of_several_labels_becomes_a_champion(served_labels, metrics):
    assert "700 pictures in 4 labels" in served_labels.output
    assert "val_map" in served_labels.output and "evaluate: test mAP 0." in served_labels.output
    assert "serves: the first model of labels" in served_labels.output
    assert "Traceback" not in served_labels.output and "Warning" not in served_labels.output
    assert metrics["test"]["map"] > 0.8 and metrics["test"]["accuracy"] > 0.5


def test_one_dvc_yaml_serves_both_kinds(served_labels):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in ("evaluate", "explain"):
        assert [path for path in stages[name]["outs"] if not (served_labels.folder / path).exists()] == []


def test_the_curves_hold_the_mean_average_precision_and_the_run_its_best(served_labels, bundle):
    from lightning_modules.tracking.client import connect_to_mlflow

    with (served_labels.folder / "data/models/classifier/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert bundle.info.metrics["val_map"] == float(best["val_map"]) > 0.8
    note = json.loads((served_labels.folder / "data/models/classifier/run.json").read_text())
    run = connect_to_mlflow(served_labels.folder).get_run(note["run_id"])
    assert run.data.metrics["best_val_map"] == bundle.info.metrics["val_map"]
    assert {"test_map", "test_map_low", "average_precision_one", "test_hamming_loss"} <= set(run.data.metrics)


def test_the_numbers_are_those_of_scikit_learn_and_of_what_is_served(served_labels, bundle, store, metrics):
    split, scorer = store.split("test"), Scorer(bundle)
    probabilities = scorer.probabilities(split.read_batch(np.arange(len(split))))
    said = thresholds.apply_thresholds(probabilities, bundle.info.thresholds)
    test = metrics["test"]
    assert test["map"] == pytest.approx(average_precision_score(split.labels, probabilities), abs=1e-3)
    assert test["macro_f1"] == pytest.approx(f1_score(split.labels, said, average="macro"), abs=1e-3)
    with (served_labels.folder / "data/models/report/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [thresholds.join_labels(NAMES, row) for row in said]
    assert test["accuracy"] == pytest.approx(np.mean([row["actual"] == row["predicted"] for row in rows]))
    assert test["ece"] < 0.2 and set(metrics["interval"]) >= {"map", "accuracy", "hamming_loss", "micro_f1"}


def test_each_label_has_the_threshold_of_the_highest_f1_on_the_validation_pictures(bundle, store):
    split = store.split("val")
    probabilities = Scorer(bundle).probabilities(split.read_batch(np.arange(len(split))))
    said = thresholds.apply_thresholds(probabilities, bundle.info.thresholds)
    half = f1_score(split.labels, probabilities >= 0.5, average=None)
    assert (f1_score(split.labels, said, average=None) >= half).all()
    assert len(bundle.info.thresholds) == 4 and bundle.info.temperature != 1


def test_a_prediction_is_the_set_of_labels_above_their_thresholds(served_labels, bundle, prefect_server, tmp_path):
    inbox, comment = tmp_path / "inbox", PngInfo()
    comment.add_text("Comment", "a copy")
    inbox.mkdir()
    for number in range(40):  # the same pixels in other bytes: no picture of the dataset, which has a label
        with Image.open(served_labels.pictures / f"{number:04d}.png") as picture:
            picture.save(inbox / f"{number:04d}.png", pnginfo=comment)
    (inbox / "broken.png").write_bytes(b"no picture")
    project = shutil.copytree(served_labels.folder, tmp_path / "project", ignore=shutil.ignore_patterns(".git"))
    out = tmp_path / "out.parquet"
    more = ("--review", "5", "--tag", "sidecar", "--engine", "pytorch")
    done = run_convoy(project, "predict", str(inbox), "--out", str(out), *more, PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout
    *rows, broken = pq.read_table(out).to_pylist()
    assert broken["status"] == "error" and {row["status"] for row in rows} == {"ok"}
    thresholds = dict(zip(NAMES, bundle.info.thresholds, strict=True))
    for row in rows:
        said = {one["label"] for one in row["top_k"] if one["probability"] >= thresholds[one["label"]]}
        assert set(parse_labels(row["label"])) == said and len(row["top_k"]) >= 3
    with (served_labels.pictures / "labels.csv").open() as file:
        actual = ["|".join(sorted(n for n in NAMES if row[n] == "1")) for row in list(csv.DictReader(file))[:40]]
    assert np.mean([row["label"] == one for row, one in zip(rows, actual, strict=True)]) > 0.5

    review = out.with_suffix(".review") / "review.csv"
    with review.open() as file:
        chosen = list(csv.DictReader(file))
    surest = {row["uri"]: row["probability"] for row in rows}
    assert all(float(one["margin"]) == pytest.approx(2 * surest[one["uri"]] - 1, abs=1e-4) for one in chosen)
    review.write_text(review.read_text().replace(",,", ",one|two,").replace(",one|two,", ",one,", 1))
    assert [one.label for one in open_source(f"{review}?separator=|")] == ["one", *["one|two"] * 4]
    assert "several of a picture separated by |" in done.stdout

    tagged = next(row for row in rows if len(parse_labels(row["label"])) == 2)
    packet = (out.with_suffix(".tagged") / f"{tagged['uri']}.xmp").read_text()
    assert all(f"<rdf:li>{name}</rdf:li>" in packet for name in parse_labels(tagged["label"]))


def test_the_logged_model_gives_the_set_and_each_of_its_labels(served_labels, bundle):
    import mlflow
    import pandas as pd

    from lightning_modules.tracking.client import connect_to_mlflow

    connect_to_mlflow(served_labels.folder)
    files = [(served_labels.pictures / f"{number:04d}.png").read_bytes() for number in range(8)]
    model = mlflow.pyfunc.load_model("models:/labels@champion")
    rows = model.predict(pd.DataFrame({"image": [*files, b"no picture"]})).to_dict("records")
    assert [row["status"] for row in rows] == ["ok"] * 8 + ["error"]
    for row in rows[:8]:
        assert [one["label"] for one in row["labels"]] == parse_labels(row["label"])
    assert "labels" in [one.name for one in model.metadata.signature.outputs.inputs]


def test_a_model_that_is_not_sure_of_every_label_abstains_where_it_is_told_to(bundle):
    from lightning_modules.inference.pyfunc_model import ServedClassifier

    model = ServedClassifier()
    model.bundle = replace(bundle, info=replace(bundle.info, abstain_below=0.7, thresholds=(0.5,) * 4))
    sure, unsure = np.array([0.9, 0.1, 0.2, 0.8], np.float32), np.array([0.9, 0.1, 0.4, 0.0], np.float32)
    row = model._make_row(sure)
    assert row["label"] == "one|zero" and row["probability"] == pytest.approx(0.8)
    row = model._make_row(unsure)
    assert row["status"] == "abstained" and row["label"] is None


def log_run_of_nothing(project: Path) -> str:
    """A finished run whose model has the trained one's layers, weights of zero, and predicts no label at all."""
    import torch

    from lightning_modules.tracking.client import connect_to_mlflow, ensure_experiment
    from lightning_modules.tracking.model_logging import log_model
    from lightning_modules.tracking.run import TrackedRun

    client = connect_to_mlflow(project)
    bundle = Bundle.load(project / "data/models/classifier")
    with torch.no_grad():
        for weights in bundle.network.parameters():
            weights.zero_()
    info = replace(bundle.info, thresholds=(0.6,) * len(NAMES))  # all probabilities are one half
    folder = project / "bundle-of-nothing"
    folder.mkdir()
    save_bundle(folder, info, bundle.network)
    run = TrackedRun.open(client, ensure_experiment(client, "labels", project), None, "made", {})
    log_model(run, folder, info, ImageStore.open(project / "data/normalized"))
    run.close("FINISHED")
    return str(run.run_id)


def test_a_newcomer_is_compared_label_by_label_and_by_its_sets(copy, prefect_server):
    from flows.promote import promote
    from flows.promotion import model_registry

    params = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(params.replace("metric: accuracy", "metric: map"))
    decision = promote(log_run_of_nothing(copy))
    assert not decision.serves and "map 0." in decision.reason and "interval -0." in decision.reason
    assert re.search(r"classes fall by more than 0\.05: one [01]\.\d{3} to 0\.000 of", decision.reason)
    tags = model_registry.connect_registry(Project(copy)).get_model_version("labels", "2").tags
    assert float(tags["convoy.map"]) < float(tags["convoy.compared_map"])


def test_a_metric_of_several_labels_is_refused_for_one_a_picture(served, tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "data/normalized").mkdir(parents=True)
    shutil.copy(served.folder / "data/normalized/dataset.json", project / "data/normalized")
    text = (served.folder / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("metric: accuracy", "metric: map"))
    with pytest.raises(UserError, match=r"'map' is for multi-label datasets.* use accuracy, macro_f1"):
        Project(project).load_params("promote")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_engine_gives_the_probabilities_of_each_label(bundle, store, tmp_path, engine):
    from lightning_modules.inference.engine_selection import AgreementLimits, select_engine

    pytest.importorskip(engine)
    made, found = select_engine(bundle, engine, "fp32", store.split("val"), AgreementLimits(0.99, 0.003), tmp_path)
    assert made.name == engine and "differ from PyTorch's by up to" in found["seen"]


def test_int8_is_judged_by_whole_sets(bundle, store, tmp_path):
    from lightning_modules.inference.engine_selection import AgreementLimits, select_engine

    pytest.importorskip("nncf")
    _, found = select_engine(bundle, "openvino", "int8", store.split("val"), AgreementLimits(0.0, 1.0), tmp_path)
    split = store.split("val")
    said = thresholds.apply_thresholds(
        Scorer(bundle).probabilities(split.read_batch(np.arange(len(split)))), bundle.info.thresholds
    )
    assert f"(fp32 {(said == split.labels).all(axis=1).mean():.4f})" in found["seen"]


def test_a_picture_is_explained_label_by_label(served_labels, tmp_path):
    from flows.reports.explanation import write_explanation

    out = tmp_path / "page.html"
    said = write_explanation(served_labels.pictures / "0003.png", None, out, Project(served_labels.folder))
    page = out.read_text()
    assert "sigmoids" in page and "Grad-CAM: places that speak for" in page and "softmax" not in page
    assert said.startswith("explain: labels version 1 predicts ")


def test_two_runs_are_compared_by_their_sets(copy):
    from flows.reports.run_comparison import compare_runs

    run = json.loads((copy / "data/models/classifier/run.json").read_text())["run_id"]
    said = str(compare_runs(Project(copy), run, run))
    assert "test_map" in said and "of 125 that both were tested on, 0 are right only in" in said


def test_a_bundle_of_one_label_a_picture_is_not_tested_on_several(copy):
    from tests.helpers.project import run_stage

    folder = copy / "data/models/classifier"
    old = Bundle.load(folder)
    save_bundle(folder, replace(old.info, thresholds=None), old.network)
    code, output = run_stage(copy, "test")
    assert code == 2
    assert "trained for one label a picture, the dataset has several labels a picture" in output
