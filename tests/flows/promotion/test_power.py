import json
from pathlib import Path

import pytest

from flows.project.project import Project
from flows.promotion import ledger, power
from flows.reports.status import read_status
from imageset.exceptions import UserError
from lightning_modules.comparison.gain.power import PowerAnalysis

NUMBERS = {
    "num_test": 252, "num_groups": 252, "num_looks": 13, "num_spending": 13, "confidence": 0.95,
    "accuracy": 0.9841,
    "compared_accuracy": 250 / 252, "gain": -0.0079, "gain_deviation": 0.1, "num_unseen": 40,
    "unseen_accuracy": 0.975, "compared_unseen_accuracy": 0.95,
}  # fmt: skip


@pytest.fixture
def decided(tmp_path) -> Project:
    """A project whose champion, version 1, was compared with version 2."""
    (tmp_path / "params.yaml").write_text("name: digits\n")
    project = Project(tmp_path)
    append_decision(project, 1, None, {}, serves=True)
    append_decision(project, 2, 1, NUMBERS, serves=False)
    return project


def append_decision(project: Project, version: int, champion: int | None, numbers, serves: bool, **more) -> None:
    after = {"champion": version if serves else champion}
    line = ledger.append_entry(project, {
        "event": ledger.DECISION, "model": "digits", "version": version, "champion": champion, "serves": serves,
        "before": {"champion": champion} if champion else {}, "after": after, "numbers": numbers, "reason": "so",
        **more,
    })  # fmt: skip
    ledger.append_entry(project, {"event": ledger.DONE, "of": line["number"]})


def find(project: Project) -> power.ScoredModel:
    return power.find_scored_model(project, ledger.read_ledger(project), "digits")


def test_the_champion_is_shown_with_the_decisions_that_used_its_test_pictures(decided):
    scored = find(decided)
    assert (scored.version, scored.num_used, scored.analysis.num_looks) == (1, 14, 14)
    assert scored.describe_value() == (
        "accuracy 0.9921 on 252 test pictures that 14 decisions have used, 0.9500 on the 40 of them that were new"
    )
    assert power.describe_power(scored.analysis).startswith(
        "252 test pictures, 2 errors: a better model cannot be told by accuracy; about "
    )


def test_a_candidate_that_serves_now_is_shown_with_its_own_value(decided):
    append_decision(decided, 3, 1, {**NUMBERS, "accuracy": 1.0}, serves=True)
    scored = find(decided)
    assert (scored.version, scored.analysis.value) == (3, 1.0)
    assert power.describe_power(scored.analysis).endswith("; no number of test pictures could tell")


def test_decisions_on_other_models_and_on_versions_before_a_rollback_do_not_count(decided):
    numbers = {"num_test": 252, "accuracy": 0.5, "compared_accuracy": 0.5}
    append_decision(decided, 1, None, numbers, serves=True, model="letters")
    append_decision(decided, 9, 8, numbers, serves=False)
    append_decision(decided, 1, 8, {}, serves=True, event=ledger.ROLLBACK)
    assert (find(decided).version, find(decided).analysis.value) == (1, 250 / 252)


def test_a_decision_of_another_clone_has_its_numbers_in_the_tags(decided):
    tags = {f"convoy.{name}": str(value) for name, value in NUMBERS.items()} | {"convoy.decision": "not better"}
    append_decision(decided, 3, 1, None, serves=False, tags={**tags, "convoy.num_looks": "20"})
    assert (find(decided).version, find(decided).num_used) == (1, 21)


def test_numbers_are_read_from_a_decision_else_from_the_tags_that_are_numbers():
    tags = {"convoy.decision": "not better", "convoy.num_test": "252", "convoy.accuracy": "0.5"}
    numbers = {"num_test": 100, "accuracy": 0.75, "gain_low": None, "classes_fallen": ["ant"]}
    assert power.read_numbers({"tags": tags}) == {"num_test": 252.0, "accuracy": 0.5}
    assert power.read_numbers({"numbers": numbers, "tags": tags}) == {"num_test": 100, "accuracy": 0.75}
    assert power.read_numbers({}) == {}


def test_the_power_of_candidate_and_champion_is_that_of_their_own_numbers():
    numbers = {
        "num_test": 400, "num_groups": 300, "num_spending": 2, "confidence": 0.75, "gain_deviation": 0.1,
        "log_loss_gain_deviation": 0.4, "max_accuracy_drop": 0.02, "accuracy": 0.9, "recalibrated_log_loss": 0.3,
        "compared_accuracy": 0.8, "compared_recalibrated_log_loss": 0.6,
    }  # fmt: skip
    same = {"num_looks": 3, "total": 0.25, "deviation": 0.1, "log_loss_deviation": 0.4, "max_accuracy_drop": 0.02}
    candidate = PowerAnalysis("accuracy", 0.9, 400, 300, log_loss=0.3, **same)
    champion = PowerAnalysis("accuracy", 0.8, 400, 300, log_loss=0.6, **same)
    assert power.analyze_numbers(numbers, "") == candidate
    assert power.analyze_numbers(numbers, "compared_") == champion


def test_a_decision_of_an_earlier_convoy_has_few_numbers(decided):
    numbers = {"num_test": 100, "accuracy": 0.9}
    expected = PowerAnalysis("accuracy", 0.9, 100, 100, num_looks=1, total=1 - 0.95)
    assert power.analyze_numbers(numbers, "") == expected
    append_decision(decided, 3, 1, numbers, serves=True)
    assert (find(decided).num_used, find(decided).unseen) == (1, None)


@pytest.mark.parametrize(
    "more", [{"num_unseen": 0, "unseen_accuracy": 0.5}, {"num_unseen": 40}, {"unseen_accuracy": 0.5}]
)
def test_without_new_test_pictures_there_is_no_value_on_them(decided, more):
    append_decision(decided, 3, 1, {"num_test": 100, "accuracy": 0.9, **more}, serves=True)
    assert find(decided).unseen is None


@pytest.mark.parametrize(
    "numbers",
    [
        {"num_test": 100}, {"accuracy": 0.9}, {"num_test": 0, "accuracy": 0.9}, {},
        {"num_test": 100, "compared_accuracy": 0.9},
    ],
)  # fmt: skip
def test_without_a_metric_or_test_pictures_there_is_no_power(numbers):
    assert power.analyze_numbers(numbers, "") is None


@pytest.mark.parametrize(
    ("metric", "others"),
    [
        ("accuracy", ["macro_f1", "macro_recall", "log_loss", "calibration_error"]),
        ("map", ["macro_f1", "micro_f1", "macro_recall", "log_loss"]),
        ("macro_f1", ["log_loss", "calibration_error"]),
        ("macro_recall", ["log_loss", "calibration_error"]),
        ("micro_f1", ["log_loss", "calibration_error"]),
        ("log_loss", ["calibration_error"]),
    ],
)
def test_of_several_metrics_the_one_that_counts_right_predictions_is_shown(metric, others):
    numbers = {"num_test": 100, **dict.fromkeys(others, 0.5), metric: 0.75}
    assert power.analyze_numbers(numbers, "").metric == metric


def test_the_values_for_json_stand_under_their_names():
    analysis = PowerAnalysis("accuracy", 0.75, 100, 100)
    assert power.ScoredModel("digits", 3, analysis, num_used=7).to_dict() == {
        "model": "digits", "version": 3, "metric": "accuracy", "value": 0.75, "num_test": 100, "num_decisions": 7,
        "smallest_gain": analysis.find_smallest_gain(), "target_gain": 0.01,
        "num_needed": analysis.count_needed_images(),
    }  # fmt: skip
    assert 0.1 < analysis.find_smallest_gain() < 0.3 and analysis.count_needed_images() > 1000


def test_status_says_what_the_test_pictures_could_show(decided):
    (line,) = [line for line in read_status(decided).lines if line.label == "tested"]
    assert line.text.startswith("digits: accuracy 0.9921 on 252 test pictures that 14 decisions have used, ")
    assert "a better model cannot be told by accuracy" in line.text
    assert line.values["smallest_gain"] is None and line.values["num_needed"] > 252


def test_the_table_has_a_row_for_each_number_of_test_pictures(decided):
    scored = find(decided)
    value, gains, empty, head, *rows = power.report_power(decided).splitlines()
    assert value == f"digits version 1: {scored.describe_value()}"
    assert gains == power.describe_power(scored.analysis) and not empty
    assert head == "  test pictures   smallest gain in accuracy seen in 80% of cases"
    assert [row[:17] for row in rows] == [
        "      252   now  ", "      504    x2  ", "    1,260    x5  ", "    2,520   x10  ", "    5,040   x20  ",
        "   12,600   x50  ",
    ]  # fmt: skip
    gain = power.format_gain(scored.analysis, scored.analysis.find_smallest_gain(12_600))
    assert (rows[0][18:], rows[-1][18:]) == ("none that is possible", gain) and gain.endswith(" points")


def test_a_metric_is_written_in_words(decided):
    analysis = PowerAnalysis("macro_f1", 0.75, 100, 100)
    assert power.ScoredModel("digits", 1, analysis).describe_value() == "macro f1 0.7500 on 100 test pictures"
    smallest, needed = analysis.find_smallest_gain(), analysis.count_needed_images()
    assert power.describe_power(analysis) == (
        f"100 test pictures: a gain in macro f1 of {smallest:.2g} or more would be seen in 80% of cases; "
        f"about {needed:,} test pictures could tell 0.01"
    )
    append_decision(decided, 3, 1, {"num_test": 252, "macro_f1": 0.6}, serves=True)
    assert "   smallest gain in macro f1 seen in 80% of cases\n" in power.report_power(decided)


def test_a_useful_gain_that_the_test_pictures_show_needs_no_more_of_them():
    analysis = PowerAnalysis("accuracy", 0.9, 100_000, 100_000)
    text = power.describe_power(analysis)
    assert text == (
        f"100,000 test pictures, 10,000 errors: a gain in accuracy of "
        f"{power.format_gain(analysis, analysis.find_smallest_gain())} or more would be seen in 80% of cases"
    )


@pytest.mark.parametrize(
    ("gain", "metric", "text"),
    [
        (0.01, "accuracy", "1 point"), (0.02, "accuracy", "2 points"), (0.0, "accuracy", "0 points"),
        (0.01234, "accuracy", "1.2 points"), (0.86, "accuracy", "86 points"), (0.01234, "map", "0.012"),
    ],
)  # fmt: skip
def test_a_gain_in_accuracy_is_written_in_points(gain, metric, text):
    assert power.format_gain(PowerAnalysis(metric, 0.9, 100, 100), gain) == text


def test_without_any_test_the_table_says_what_to_do(tmp_path):
    (tmp_path / "params.yaml").write_text("name: digits\n")
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text(json.dumps({"name": "digits"}))
    with pytest.raises(UserError, match="no model was tested yet"):
        power.report_power(Project(tmp_path))


def test_the_result_of_the_last_training_counts_before_any_comparison(tmp_path):
    (tmp_path / "params.yaml").write_text("name: digits\n")
    (tmp_path / "data/normalized").mkdir(parents=True)
    (tmp_path / "data/normalized/dataset.json").write_text(json.dumps({"counts": {"test": {"0": 60, "1": 40}}}))
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {"accuracy": 0.75}}))
    scored = find(Project(tmp_path))
    assert (scored.version, scored.analysis.value, scored.analysis.num_images) == (None, 0.75, 100)
    assert "100 test pictures, 25 errors: a gain in accuracy of " in power.describe_power(scored.analysis)
    assert scored.describe_value() == "accuracy 0.7500 on 100 test pictures"
    assert (scored.model, scored.num_used, scored.analysis.num_groups) == ("digits", 0, 100)
    write_manifest(tmp_path, {"name": "digits", "counts": {"test": {"0": 60, "1": 40}}})
    head = "digits the last training: accuracy 0.7500 on 100 test pictures\n"
    assert power.report_power(Project(tmp_path)).startswith(head)


def write_manifest(folder: Path, manifest: object) -> None:
    path = folder / "data/normalized/dataset.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("test", "counts"),
    [
        (None, {"0": 60}), ("{", {"0": 60}), ("{}", {"0": 60}), ("[]", {"0": 60}), ('{"test": {}}', {"0": 60}),
        ('{"test": {"accuracy": null}}', {"0": 60}), ('{"test": {"accuracy": 0.75}}', [60]),
    ],
)  # fmt: skip
def test_a_last_training_that_cannot_be_read_has_no_result(tmp_path, test, counts):
    (tmp_path / "params.yaml").write_text("name: digits\n")
    write_manifest(tmp_path, {"counts": {"test": counts}})
    if test is not None:
        (tmp_path / "metrics.json").write_text(test)
    assert find(Project(tmp_path)) is None


def test_before_any_training_a_usual_model_is_assumed(tmp_path):
    (tmp_path / "params.yaml").write_text("name: digits\n")
    text = power.describe_planned_power(Project(tmp_path), 400)
    assert text.startswith("of a model with accuracy 0.9: 400 test pictures, 40 errors: a gain in accuracy of ")
    assert power.describe_planned_power(Project(tmp_path), 0) is None


def test_before_a_training_on_other_test_pictures_the_accuracy_of_the_last_model_is_assumed(decided):
    assert power.describe_planned_power(decided, 252) == power.describe_power(find(decided).analysis)
    planned = PowerAnalysis("accuracy", 250 / 252, 1000, 1000)
    assert power.describe_planned_power(decided, 1000) == (
        f"of a model with accuracy 0.99: {power.describe_power(planned)}"
    )
    append_decision(decided, 3, 1, {"num_test": 252, "macro_f1": 0.6}, serves=True)
    assert power.describe_planned_power(decided, 1000).startswith("of a model with accuracy 0.9: 1,000 test pict")


def test_a_damaged_ledger_does_not_stop_what_is_planned(decided):
    (decided / ledger.LEDGER).write_text("nonsense\n")
    assert power.describe_planned_power(decided, 400).startswith("of a model with accuracy 0.9: 400 test pictures")
