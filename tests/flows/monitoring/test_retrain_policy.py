from datetime import UTC, datetime, timedelta

from flows.monitoring.retrain_policy import (
    CLEAN,
    DRIFTED,
    TOO_SMALL,
    RetrainPolicy,
    count_drifted_in_a_row,
    decide_retrain,
)

POLICY = RetrainPolicy(enabled=True, batches_in_a_row=2, cooldown_hours=72, max_per_30_days=2)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batches(*states: str) -> list[dict]:
    return [{"state": state} for state in states]


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


def test_the_last_batches_that_drifted_one_after_the_other_are_counted():
    assert count_drifted_in_a_row(batches(DRIFTED, CLEAN, DRIFTED, DRIFTED)) == 2
    assert count_drifted_in_a_row(batches(DRIFTED, TOO_SMALL, DRIFTED)) == 2
    assert count_drifted_in_a_row(batches(DRIFTED, CLEAN)) == count_drifted_in_a_row([]) == 0


def test_enough_drifted_batches_in_a_row_are_reason_to_train_again():
    assert decide_retrain(POLICY, batches(DRIFTED, DRIFTED), [], NOW).retrain
    assert decide_retrain(POLICY, batches(DRIFTED, DRIFTED), [], NOW).reason == "2 drifted batches in a row"
    answer = decide_retrain(POLICY, batches(DRIFTED, CLEAN, DRIFTED), [], NOW)
    assert (answer.retrain, answer.reason) == (False, "1 of 2 drifted batches in a row")
    assert decide_retrain(POLICY, batches(CLEAN), [], NOW).reason == "no drift"


def test_nothing_is_trained_unless_that_is_switched_on():
    off = RetrainPolicy(False, 1, 0, 9)
    assert decide_retrain(off, batches(DRIFTED, DRIFTED), [], NOW).reason == "monitor.retrain.enabled is false"


def test_a_retrain_cools_down():
    drifted = batches(DRIFTED, DRIFTED, DRIFTED)
    answer = decide_retrain(POLICY, drifted, [ago(hours=71.9)], NOW)
    assert not answer.retrain and answer.reason.startswith("the last retrain cools down until 2026-03-01 ")
    assert decide_retrain(POLICY, drifted, [ago(hours=72)], NOW).retrain


def test_the_budget_of_thirty_days_is_not_overdrawn():
    drifted = batches(DRIFTED, DRIFTED)
    assert (
        decide_retrain(POLICY, drifted, [ago(days=29), ago(days=4)], NOW).reason
        == "2 retrains in 30 days are the whole budget"
    )
    assert decide_retrain(POLICY, drifted, [ago(days=30), ago(days=4)], NOW).retrain
