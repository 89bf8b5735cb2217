import csv
import json
import shutil

import numpy as np
import pytest

from imageset.errors import UserError
from imageset.raw import read_bytes
from imageset.store import ImageStore
from lightning_modules.bundle import Bundle, load_bundle
from lightning_modules.evaluate import confusion_matrix, key, summary
from lightning_modules.scoring import score
from lightning_modules.tracking import connect
from tests.lightning_modules.conftest import run_stage, set_params


def metrics(project):
    return json.loads((project / "metrics.json").read_text())


def run_of(project):
    note = json.loads((project / "data/models/classifier/run.json").read_text())
    client = connect(project)
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


def test_the_confusion_matrix_is_a_picture_in_the_run(trained):
    client, run = run_of(trained)
    assert "report/confusion_matrix.png" in [f.path for f in client.list_artifacts(run.info.run_id, "report")]
    assert (trained / "data/models/report/confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_score_the_same_from_their_files_as_in_the_test(trained):
    store = ImageStore.open(trained / "data/normalized")
    split = store.split("test")
    bundle = Bundle.load(trained / "data/models/classifier")
    items = read_bytes(trained / "data/raw", split.image_ids)
    scored = {s.key: s.probabilities for s in score(bundle, items, batch_size=50, workers=1)}
    right = sum(scored[i].argmax() == label for i, label in zip(split.image_ids, split.labels, strict=True))
    assert right / len(split) == pytest.approx(metrics(trained)["test"]["accuracy"], abs=1e-6)


def test_a_picture_that_cannot_be_read_never_shifts_another(trained):
    store = ImageStore.open(trained / "data/normalized")
    ids = store.split("test").image_ids[:5]
    good = [data for _, data in read_bytes(trained / "data/raw", ids)]
    bundle = Bundle.load(trained / "data/models/classifier")
    clean = list(score(bundle, enumerate(good), batch_size=2, workers=1))
    mixed = list(score(bundle, enumerate([*good[:2], b"text", *good[2:]]), batch_size=2, workers=1))
    assert mixed[2].probabilities is None and mixed[2].reason == "not_an_image"
    kept = [s.probabilities for s in mixed if s.probabilities is not None]
    assert np.allclose(kept, [s.probabilities for s in clean], atol=1e-5)


def test_the_logged_model_holds_the_same_bundle(trained):
    note = json.loads((trained / "data/models/classifier/run.json").read_text())
    connect(trained)
    assert load_bundle(note["model_uri"]).digest == Bundle.load(trained / "data/models/classifier").digest


def test_a_model_that_mlflow_does_not_have_is_one_line(trained):
    connect(trained)
    with pytest.raises(UserError, match="cannot give the model models:/nothing@champion"):
        load_bundle("models:/nothing@champion")


@pytest.fixture
def bundle_folder(trained, tmp_path):
    return shutil.copytree(trained / "data/models/classifier", tmp_path / "bundle")


def test_weights_that_were_changed_are_refused(bundle_folder):
    path = bundle_folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"not the weights that bundle\.json names"):
        Bundle.load(bundle_folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 99}'])
def test_a_manifest_that_is_no_manifest_is_refused(bundle_folder, content):
    (bundle_folder / "bundle.json").write_bytes(content)
    with pytest.raises(UserError, match=r"bundle\.json"):
        Bundle.load(bundle_folder)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(UserError, match="train first with `dvc repro`"):
        Bundle.load(tmp_path)


def test_a_bundle_of_other_classes_is_refused(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    manifest = project / "data/models/classifier/bundle.json"
    content = json.loads(manifest.read_text())
    content["info"]["classes"][0] = "zero"
    manifest.write_text(json.dumps(content))
    code, output = run_stage(project, "test")
    assert code == 2
    assert "trained for the classes ['zero', '1'" in output and "Traceback" not in output


def test_a_run_that_mlflow_lost_is_named_with_what_to_do(trained, tmp_path, empty_mlflow_db):
    project = shutil.copytree(trained, tmp_path / "project")
    shutil.copy(empty_mlflow_db, project / "mlflow.db")
    code, output = run_stage(project, "test")
    assert code == 2
    assert "MLflow has no run" in output and "dvc repro -f train" in output


def test_an_unknown_key_of_evaluate_is_named(trained, tmp_path):
    project = shutil.copytree(trained, tmp_path / "project")
    set_params(project, evaluate__data__batchsize=1)
    code, output = run_stage(project, "test")
    assert code == 2
    assert "evaluate: unknown key 'data.batchsize'; did you mean 'data.batch_size'?" in output


def test_rows_of_the_confusion_matrix_are_the_true_classes():
    confusion = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_a_class_without_test_pictures_has_no_recall():
    values = {"test_accuracy": 0.5, "test_loss": 1.0}
    numbers = summary(values, np.array([[1, 1, 0], [0, 0, 0], [0, 0, 2]]), ("a", "b", "c"))
    assert numbers["recall"] == {"a": 0.5, "c": 1.0}
    assert numbers["test"]["macro_recall"] == 0.75


def test_a_class_name_that_mlflow_would_refuse_is_spelled_for_it():
    assert key("cat & dog/é") == "cat _ dog_é"
