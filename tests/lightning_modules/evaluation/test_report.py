import shutil

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, hamming_loss, roc_auc_score

from imageset.raw.ingestion import ingest_source
from imageset.sources.factory import open_source
from imageset.store.reader import ImageStore
from lightning_modules.evaluation.params import EvaluationParams
from lightning_modules.evaluation.report import ScoredSplit, evaluate_split
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
