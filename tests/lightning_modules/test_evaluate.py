import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, hamming_loss, roc_auc_score

from imageset.errors import UserError
from imageset.raw import ingest, read_bytes
from imageset.sources import open_source
from imageset.store import ImageStore
from lightning_modules.bundle import Bundle, load_bundle, manifest_digest
from lightning_modules.logged import key
from lightning_modules.scoring import Scorer, score
from lightning_modules.suspects import issues_csv
from lightning_modules.tracking import connect
from lightning_modules.verdict import Seen, Settings, judge, suspicious
from tests.conftest import ROOT
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
    assert all(np.isfinite(value) for _, value in found)
    assert not any("error" in path for path, _ in found)
    assert {"accuracy", "loss", "macro_recall", "macro_f1", "macro_auroc", "top_5_accuracy", "ece"} <= set(
        metrics(trained)["test"]
    )


def test_each_interval_holds_its_number(trained):
    numbers = metrics(trained)
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
    served = scorer.probabilities(split.batch(np.arange(len(split)))).max(axis=1)
    with (trained / "data/models/report/predictions.csv").open() as file:
        written = [float(row["probability"]) for row in csv.DictReader(file)]
    assert np.allclose(served, written, atol=1e-4)


def test_likely_label_errors_are_found_and_ingest_reads_the_table(trained, tmp_path):
    store = ImageStore.open(trained / "data/normalized")
    test, val = (store.split(name) for name in ("test", "val"))
    scorer = Scorer(Bundle.load(trained / "data/models/classifier"))
    seen = [Seen(one, scorer.split_logits(one, 64), scorer.temperature) for one in (test, val)]
    swapped = np.arange(0, len(test), 10)
    test.labels[swapped] = (test.labels[swapped] + 1) % 10
    rows = suspicious(seen)
    found = {row[0] for row in rows} & {test.uris[i] for i in swapped}
    assert len(found) > 0.7 * len(swapped) and len(rows) < 2 * len(swapped)

    pictures = shutil.copytree(trained / "data/digits", tmp_path / "digits")
    (pictures / "review.csv").write_bytes(issues_csv(rows))
    read = list(open_source(str(pictures / "review.csv")))
    assert [(one.uri, one.label) for one in read] == [(row[0], row[1]) for row in rows]
    assert read[0].read().startswith(b"\x89PNG")


def test_pictures_with_several_labels_are_judged_label_by_label(digits_project, tmp_path):
    project = shutil.copytree(digits_project, tmp_path / "project")
    names = [["curved", "odd"], ["curved"], ["curved", "even"], ["odd"], ["even"]]
    pictures = sorted((project / "data/digits").rglob("*.png"))[::5]
    with (project / "data/digits/labels.csv").open("w") as file:
        file.write("path,labels\n")
        for i, path in enumerate(pictures):
            file.write(f"{path.relative_to(project / 'data/digits')},{'|'.join(names[i % 5])}\n")
    shutil.rmtree(project / "data/raw")
    ingest(open_source(str(project / "data/digits/labels.csv")), project / "data/raw")
    code, output = run_stage(project, "normalize", "imageset")
    assert code == 0, output
    store = ImageStore.open(project / "data/normalized")
    assert store.multi_label
    settings = Settings.read(project / "params.yaml")
    draws = np.random.default_rng(0)
    seen = []
    for name in ("test", "val"):
        labels = store.split(name).labels
        seen.append(Seen(store.split(name), 4.0 * labels - 2 + draws.normal(0, 1.5, labels.shape), 1.0))
    verdict = judge(*seen, settings)
    numbers = verdict.metrics["test"]
    labels = store.split("test").labels
    assert numbers["map"] == pytest.approx(average_precision_score(labels, seen[0].logits, average="macro"))
    said = seen[0].logits >= 0
    assert numbers["accuracy"] == pytest.approx(accuracy_score(labels, said))
    assert numbers["hamming_loss"] == pytest.approx(hamming_loss(labels, said))
    assert numbers["micro_f1"] == pytest.approx(f1_score(labels, said, average="micro"))
    assert numbers["macro_auroc"] == pytest.approx(roc_auc_score(labels, seen[0].logits))
    for name, interval in verdict.metrics["interval"].items():
        assert interval["low"] <= numbers[name] <= interval["high"]
    assert 0.5 < numbers["macro_f1"] < 1 and set(verdict.metrics["average_precision"]) == {"curved", "even", "odd"}
    assert all(content.startswith(b"\x89PNG") for name, content in verdict.files.items() if name.endswith("png"))


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


def test_a_manifest_that_was_changed_is_refused(bundle_folder):
    path = bundle_folder / "bundle.json"
    path.write_text(path.read_text().replace('"channels": 1', '"channels": 3'))
    with pytest.raises(UserError, match=r"bundle\.json: was changed after it was written"):
        Bundle.load(bundle_folder)


def test_a_bundle_written_before_there_were_all_these_fields_still_loads(bundle_folder):
    path = bundle_folder / "bundle.json"
    manifest = json.loads(path.read_text())
    later = ("temperature", "abstain_below", "git_commit", "lock_sha256")
    info = {name: value for name, value in manifest["info"].items() if name not in later}
    path.write_text(json.dumps({"format": 1, "weights_sha256": manifest["weights_sha256"], "info": info}))
    (bundle_folder / "reference.safetensors").unlink()
    old = Bundle.load(bundle_folder).info
    assert (old.temperature, old.abstain_below, old.git_commit) == (1.0, None, None)


def test_a_field_that_only_a_later_convoy_knows_is_named(bundle_folder):
    path = bundle_folder / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["info"]["mood"] = "good"
    path.write_text(json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    with pytest.raises(UserError, match="says mood, which only a later Convoy understands"):
        Bundle.load(bundle_folder)


def test_the_bundle_says_which_data_code_and_environment_it_is_from(trained):
    info = Bundle.load(trained / "data/models/classifier").info
    store = ImageStore.open(trained / "data/normalized")
    assert info.dataset["fingerprint"] == store.fingerprint and len(info.dataset["digest"]) == 32
    assert set(info.metrics) == {"val_loss", "val_accuracy"}
    client, run = run_of(trained)
    seen = client.download_artifacts(run.info.run_id, "training/pictures.parquet")
    assert pq.read_table(seen)["image_id"].to_pylist() == [
        bytes.fromhex(one) for one in store.split("train").image_ids
    ]


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
    content["sha256"] = manifest_digest(content)
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


def test_a_class_name_that_mlflow_would_refuse_is_spelled_for_it():
    assert key("cat & dog/é") == "cat _ dog_é"
