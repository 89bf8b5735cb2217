from datetime import UTC, datetime, timedelta

from flows.monitoring.retrain_policy import (
    CLEAN,
    DRIFTED,
    TOO_SMALL,
    RetrainHistory,
    RetrainPolicy,
    count_drifted_in_a_row,
    decide_retrain,
    find_retry_time,
    read_retrain_history,
)
from flows.promotion.ledger import DECISION, RETRAIN, RETRAINED

POLICY = RetrainPolicy(enabled=True, batches_in_a_row=2, cooldown_hours=72, max_per_30_days=2)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batches(*states: str) -> list[dict]:
    return [{"state": state} for state in states]


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


def trained(*starts: datetime) -> RetrainHistory:
    return RetrainHistory(trained=starts)


NEVER = RetrainHistory()


def test_the_last_batches_that_drifted_one_after_the_other_are_counted():
    assert count_drifted_in_a_row(batches(DRIFTED, CLEAN, DRIFTED, DRIFTED)) == 2
    assert count_drifted_in_a_row(batches(DRIFTED, TOO_SMALL, DRIFTED)) == 2
    assert count_drifted_in_a_row(batches(DRIFTED, CLEAN)) == count_drifted_in_a_row([]) == 0


def test_enough_drifted_batches_in_a_row_are_reason_to_train_again():
    assert decide_retrain(POLICY, batches(DRIFTED, DRIFTED), NEVER, NOW).retrain
    assert decide_retrain(POLICY, batches(DRIFTED, DRIFTED), NEVER, NOW).reason == "2 drifted batches in a row"
    answer = decide_retrain(POLICY, batches(DRIFTED, CLEAN, DRIFTED), NEVER, NOW)
    assert (answer.retrain, answer.reason) == (False, "1 of 2 drifted batches in a row")
    assert decide_retrain(POLICY, batches(CLEAN), NEVER, NOW).reason == "no drift"


def test_nothing_is_trained_unless_that_is_switched_on():
    off = RetrainPolicy(False, 1, 0, 9)
    assert decide_retrain(off, batches(DRIFTED, DRIFTED), NEVER, NOW).reason == "monitor.retrain.enabled is false"


def test_a_retrain_cools_down():
    drifted = batches(DRIFTED, DRIFTED, DRIFTED)
    answer = decide_retrain(POLICY, drifted, trained(ago(hours=71.9)), NOW)
    assert not answer.retrain and answer.reason.startswith("the last retrain cools down until 2026-03-01 ")
    assert decide_retrain(POLICY, drifted, trained(ago(hours=72)), NOW).retrain


def test_the_cooldown_counts_from_the_last_retrain_whatever_their_order():
    drifted = batches(DRIFTED, DRIFTED)
    for starts in ((ago(hours=100), ago(hours=71)), (ago(hours=71), ago(hours=100))):
        answer = decide_retrain(RetrainPolicy(True, 2, 72, 9), drifted, trained(*starts), NOW)
        assert answer.reason.startswith("the last retrain cools down until 2026-03-01 ")


def test_the_budget_of_thirty_days_is_not_overdrawn():
    drifted = batches(DRIFTED, DRIFTED)
    for starts in (
        (ago(days=29), ago(days=4)),
        (ago(days=4), ago(days=29)),
        (ago(days=4), ago(days=90), ago(days=29)),
    ):
        assert (
            decide_retrain(POLICY, drifted, trained(*starts), NOW).reason
            == "2 retrains in 30 days are the whole budget"
        )
    assert decide_retrain(POLICY, drifted, trained(ago(days=30), ago(days=4)), NOW).retrain
    assert decide_retrain(POLICY, drifted, trained(ago(days=4), ago(days=30)), NOW).retrain


def test_a_retrain_that_failed_spends_nothing_and_is_tried_again_after_ever_longer_waits():
    drifted = batches(DRIFTED, DRIFTED)
    once = RetrainHistory(failed=[ago(minutes=59)])
    assert decide_retrain(POLICY, drifted, once, NOW).reason.startswith(
        "the last retrain failed; the next try is from"
    )
    assert decide_retrain(POLICY, drifted, RetrainHistory(failed=[ago(minutes=60)]), NOW).retrain
    waits = [
        find_retry_time(RetrainHistory(failed=[ago(days=10)] * num)) - ago(days=10)  # type: ignore[operator]
        for num in range(1, 9)
    ]
    assert waits == [timedelta(hours=hours) for hours in (1, 2, 4, 8, 16, 24, 24, 24)]
    many = RetrainHistory(trained=[ago(days=9)], failed=[ago(days=10), ago(hours=5), ago(days=11), ago(hours=3)])
    assert find_retry_time(many) == ago(hours=1)  # two have failed since the last one that trained


def line(number: int, event: str, **values) -> dict:
    return {"number": number, "event": event, "time": ago(hours=100 - number).isoformat(), **values}


def test_only_retrains_that_trained_or_were_killed_count():
    entries = [
        line(1, DECISION),
        *(line(number, RETRAIN) for number in (2, 3, 4, 5, 6, 7)),
        line(8, RETRAINED, of=2, begun=True, trained=True, reason="retrained on 14 new labels: version 2 serves"),
        line(9, RETRAINED, of=3, begun=True, trained=False, reason="nothing was trained: already decided"),
        line(10, RETRAINED, of=4, begun=False, trained=False, reason="another run is at work in this project"),
        line(11, RETRAINED, of=5, begun=True, trained=False, reason="failed: the source does not answer"),
        line(12, RETRAINED, of=7, begun=True, trained=True, reason="failed: MLflow does not answer"),
    ]
    history = read_retrain_history(entries)
    assert history.trained == [ago(hours=98), ago(hours=94), ago(hours=93)]  # 6 has no outcome: it was killed
    assert history.failed == [ago(hours=95)]


def test_the_ledger_of_an_older_version_counts_what_began_and_did_not_fail():
    entries = [
        *(line(number, RETRAIN) for number in (1, 2, 3)),
        line(4, RETRAINED, of=1, begun=True, reason="version 2 serves"),
        line(5, RETRAINED, of=2, begun=False, reason="another run is at work in this project"),
        line(6, RETRAINED, of=3, begun=True, reason="failed: no source"),
    ]
    assert read_retrain_history(entries) == RetrainHistory([ago(hours=99)], [ago(hours=97)])
