import json

import pytest

from flows.project.project import Project
from flows.promotion.model_registry import Version
from flows.reports.run_summary import find_weakest_classes, summarize_run

METRICS = {
    "test": {"accuracy": 0.96875, "loss": 0.1, "baseline_accuracy": 0.25},
    "interval": {"accuracy": {"low": 0.90625, "high": 1.0}},
    "recall": {"ant": 0.9, "bee": 1.0, "cat": 0.5, "dog": 0.75},
    "num_test": 1032,
}


@pytest.fixture
def trained(tmp_path) -> Project:
    """A project with the files that a run leaves."""
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    for page in ("data/models/report/what_the_network_sees.html", "data/normalized/dataset.html"):
        (tmp_path / page).parent.mkdir(parents=True)
        (tmp_path / page).write_text("page")
    return Project(tmp_path)


def test_a_run_ends_with_how_good_the_model_is_and_how_to_go_on(trained):
    assert summarize_run(trained, "pets version 1 serves: the first model of pets", None).splitlines() == [
        "",
        "test accuracy  0.9688 (0.9062 to 1.0000) on 1,032 test pictures; baseline 0.2500 (always the most "
        "frequent answer)",
        "weakest        recall of cat 0.50, dog 0.75, ant 0.90",
        "model          pets version 1 serves: the first model of pets",
        "report         data/models/report/what_the_network_sees.html, data/normalized/dataset.html",
        "next           convoy predict FOLDER",
        "               convoy status",
    ]


def test_what_serves_instead_of_the_last_training_is_named_with_its_reason(trained):
    lines = summarize_run(
        trained,
        "pets version 2 does not serve: not better",
        Version("pets", 1, "a", "the first"),
        {"more": "this"},
    ).splitlines()
    assert lines[3:5] == [
        "model          pets version 2 does not serve: not better",
        "               pets version 1 serves: the first",
    ]
    assert lines[6] == "more           this"


def test_a_multi_label_run_ends_with_its_map_too(trained):
    several = {**METRICS, "test": {"accuracy": 0.5, "map": 0.75, "baseline_accuracy": 0.3, "baseline_map": 0.7},
               "interval": {"accuracy": {"low": 0.4, "high": 0.6}, "map": {"low": 0.7, "high": 0.8}}}  # fmt: skip
    (trained / "metrics.json").write_text(json.dumps(several))
    assert summarize_run(trained, "-", None).splitlines()[1:3] == [
        "test mAP       0.7500 (0.7000 to 0.8000) on 1,032 test pictures; baseline 0.7000 (scores that ignore the "
        "pictures)",
        "test accuracy  0.5000 (0.4000 to 0.6000) on 1,032 test pictures, all labels of a picture right; baseline "
        "0.3000 (always the most frequent answer)",
    ]


def test_metrics_that_an_earlier_convoy_wrote_have_no_baseline(trained):
    (trained / "metrics.json").write_text(json.dumps({**METRICS, "test": {"accuracy": 0.5}}))
    assert summarize_run(trained, "-", None).splitlines()[1] == (
        "test accuracy  0.5000 (0.9062 to 1.0000) on 1,032 test pictures"
    )


def test_a_model_that_abstains_says_how_much_it_answers_and_how_well(trained):
    numbers = {"abstain_below": 0.9, "coverage": 0.61, "selective_accuracy": 0.93}
    (trained / "metrics.json").write_text(json.dumps({**METRICS, "abstention": numbers}))
    lines = summarize_run(trained, "-", None).splitlines()
    assert lines[1].startswith("test accuracy  0.9688")
    assert lines[2].strip() == (
        "with abstain_below 0.9 it answers 61%, of those 0.9300 right; above: if it answered all"
    )


def test_where_nothing_serves_nothing_is_to_be_predicted(trained):
    lines = summarize_run(trained, "pets version 1 does not serve: -", None, nothing_serves=True).splitlines()
    assert lines[-1] == "next           convoy status"


def test_pages_and_metrics_that_are_not_there_are_left_out(tmp_path):
    assert summarize_run(Project(tmp_path), "-", None).splitlines()[1].startswith("model")
    assert find_weakest_classes({}) == []
