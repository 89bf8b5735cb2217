import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, hamming_loss, roc_auc_score

from imageset.raw.ingestion import ingest_source
from imageset.sources.factory import open_source
from imageset.store.reader import ImageStore
from lightning_modules.evaluation.params import EvaluationParams
from lightning_modules.evaluation.report import ScoredSplit, evaluate_split, warn_unmeasured
from tests.helpers.project import run_stage


def test_pictures_with_several_labels_are_judged_label_by_label(digits_project, tmp_path):
    project = shutil.copytree(digits_project, tmp_path / "project")
    names = [["curved", "odd"], ["curved"], ["curved", "even"], ["odd"], ["even"]]
    pictures = sorted((project / "data/digits").rglob("*.png"))[::5]
    with (project / "data/digits/labels.csv").open("w") as file:
        file.write("path,labels\n")
        for i, path in enumerate(pictures):
            file.write(f"{path.relative_to(project / 'data/digits')},{'|'.join(names[i % 5])}\n")
    shutil.rmtree(project / "data/raw")
    ingest_source(open_source(str(project / "data/digits/labels.csv")), project / "data/raw")
    code, output = run_stage(project, "normalize", "imageset")
    assert code == 0, output
    store = ImageStore.open(project / "data/normalized")
    assert store.multi_label
    settings = EvaluationParams.from_params_file(project / "params.yaml")
    draws = np.random.default_rng(0)
    seen = []
    for name in ("test", "val"):
        labels = store.split(name).labels
        seen.append(ScoredSplit(store.split(name), 4.0 * labels - 2 + draws.normal(0, 1.5, labels.shape), 1.0))
    verdict = evaluate_split(seen[0], seen, settings)
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


def make_scored(test_labels: list, train_labels: list, classes: tuple[str, ...]) -> ScoredSplit:
    """A test split of these labels; its pictures are not needed."""
    train = SimpleNamespace(labels=np.array(train_labels))
    is_multi_label = train.labels.ndim == 2
    store = SimpleNamespace(classes=classes, multi_label=is_multi_label, split=lambda name: train)
    split = SimpleNamespace(labels=np.array(test_labels), store=store)
    return ScoredSplit(split, np.zeros((len(test_labels), len(classes))), 1.0)


def test_classes_without_training_or_test_pictures_are_named():
    assert warn_unmeasured(make_scored([0, 2], [0, 1], ("ant", "bee", "cow"))) == [
        "classes without training pictures, which cannot be learned: cow",
        "classes without test pictures, which are not measured: bee",
    ]
    assert warn_unmeasured(make_scored([0, 1], [0, 1], ("ant", "bee"))) == []


def test_a_label_of_every_test_picture_is_named_since_the_map_leaves_it_out():
    scored = make_scored([[1, 1, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]], ("ant", "bee", "cow"))
    assert warn_unmeasured(scored) == [
        "labels without test pictures, which are not measured: cow",
        "labels of every test picture, which are left out of the mAP: ant",
    ]
