import json

import pytest

from flows.project.project import Project
from flows.promotion import ledger, power
from flows.reports.status import read_status
from imageset.exceptions import UserError

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


def test_a_decision_of_another_clone_has_its_numbers_in_the_tags(decided):
    tags = {f"convoy.{name}": str(value) for name, value in NUMBERS.items()} | {"convoy.decision": "not better"}
    append_decision(decided, 3, 1, None, serves=False, tags={**tags, "convoy.num_looks": "20"})
    assert (find(decided).version, find(decided).num_used) == (1, 21)


def test_status_says_what_the_test_pictures_could_show(decided):
    (line,) = [line for line in read_status(decided).lines if line.label == "tested"]
    assert line.text.startswith("digits: accuracy 0.9921 on 252 test pictures that 14 decisions have used, ")
    assert "a better model cannot be told by accuracy" in line.text
    assert line.values["smallest_gain"] is None and line.values["num_needed"] > 252


def test_the_table_has_a_row_for_each_number_of_test_pictures(decided):
    rows = power.report_power(decided).splitlines()[4:]
    assert len(rows) == len(power.TABLE_FACTORS) and rows[0].split()[:2] == ["252", "now"]
    assert "none that is possible" in rows[0] and rows[-1].endswith("points") and "12,600   x50" in rows[-1]


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


def test_before_any_training_a_usual_model_is_assumed(tmp_path):
    (tmp_path / "params.yaml").write_text("name: digits\n")
    text = power.describe_planned_power(Project(tmp_path), 400)
    assert text.startswith("of a model with accuracy 0.9: 400 test pictures, 40 errors: a gain in accuracy of ")
    assert power.describe_planned_power(Project(tmp_path), 0) is None
