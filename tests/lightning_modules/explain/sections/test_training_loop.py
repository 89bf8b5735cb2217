from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from lightning_modules.explain.sections.page import ExplainPage
from lightning_modules.explain.sections.training_loop import compute_most_frequent_share, describe_training

COLUMNS = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,val_error,learning_rate"
EPOCHS = ["0,1.5,0.4,1.2,0.6,0.4,0.01", "1,0.5,0.8,0.3,0.9,0.1,0.01", "2,0.2,0.9,0.4,0.96,0.04,0.001"]


def describe(folder, rows, metrics, **options):
    (folder / "history.csv").write_text("\n".join([COLUMNS, *rows, ""]))
    train = {"stop_at_error": None, "patience": None, "trainer": {"max_epochs": 15}, **options}
    (folder / "params.yaml").write_text(yaml.safe_dump({"train": train}))
    info = SimpleNamespace(metrics=metrics)
    labels = np.array([0, 0, 0, 1])
    return describe_training(ExplainPage(), info, folder / "history.csv", folder / "params.yaml", labels)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"stop_at_error": 0.05}, "the validation error, 4.00%, was not above the desired 5.00%"),
        (
            {"stop_at_error": 0.01, "trainer": {"max_epochs": 3}},
            "the number of epochs in train.trainer.max_epochs",
        ),
        ({"patience": 1}, "the validation loss had not fallen for 1 epochs"),
        ({"patience": 2}, "train.budget or another limit"),
    ],
)
def test_the_page_says_why_the_training_ended(tmp_path, options, reason):
    section = describe(tmp_path, EPOCHS, {"val_loss": 0.3}, **options)
    assert reason in section["reason"] and section["num_epochs"] == 3
    assert section["desired"] == options.get("stop_at_error") and not section["is_probe"]
    assert section["best"] == 2 and section["figure"].image.startswith(b"\x89PNG")


def test_the_network_before_the_epochs_may_have_been_kept(tmp_path):
    assert describe(tmp_path, EPOCHS, {"val_loss": 0.25})["best"] is None


def test_a_linear_probe_has_no_curve(tmp_path):
    section = describe(tmp_path, ["0,,,0.12,0.95,,"], {"val_loss": 0.12, "val_accuracy": 0.95})
    assert section["is_probe"] and section["figure"] is None and section["metrics"]["val_accuracy"] == 0.95


def test_without_a_history_there_is_no_section(tmp_path):
    missing = tmp_path / "no.csv"
    assert describe_training(ExplainPage(), SimpleNamespace(metrics={}), missing, tmp_path, np.zeros(1)) is None


def test_the_accuracy_stands_beside_that_of_one_answer_for_all():
    assert compute_most_frequent_share(np.array([0, 0, 0, 1])) == 0.75
    assert compute_most_frequent_share(np.array([[1, 0], [1, 1], [1, 1]])) == pytest.approx(2 / 3)
    assert compute_most_frequent_share(np.empty(0, int)) == 0
