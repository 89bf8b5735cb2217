import numpy as np
import pytest
from sklearn import metrics as peer

from lightning_modules.comparison.multiclass_metrics import MULTICLASS_METRICS, calibration_error
from lightning_modules.comparison.paired import (  # fmt: skip
    PairedPredictions,
    compare_paired,
    iter_resamples,
    sign_test,
)

CLASSES = ("a", "b", "c")


def outputs(rng: np.random.Generator, labels: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Probabilities (N, 3) whose best class is the true one where `right`, else another one."""
    wrong = (labels + rng.integers(1, 3, len(labels))) % 3
    best = np.where(right, labels, wrong)
    probabilities = rng.dirichlet(np.ones(3), len(labels)) * 0.3
    probabilities[np.arange(len(labels)), best] += 0.7
    return probabilities


def trial(seed: int, num_test: int, new: float, old: float, shared: float = 0.0) -> PairedPredictions:
    """Two models of known accuracies; in a part `shared` of the pictures both are right or wrong together."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_test)
    luck, other = rng.random(num_test), rng.random(num_test)
    mine = np.where(rng.random(num_test) < shared, luck, other)
    return PairedPredictions(
        labels, outputs(rng, labels, mine < new), outputs(rng, labels, luck < old), CLASSES, np.arange(num_test)
    )


@pytest.mark.parametrize("name", MULTICLASS_METRICS)
def test_weights_count_like_copies_of_the_pictures(name):
    one = trial(0, 200, 0.7, 0.7)
    make, _ = MULTICLASS_METRICS[name]
    weights = next(iter_resamples(one, 3, seed=0))
    for row in weights:
        copies = np.repeat(np.arange(200), row.astype(int))
        alone = make(one.labels[copies], one.candidate[copies])(np.ones((1, 200)))
        assert make(one.labels, one.candidate)(row[None])[0] == pytest.approx(alone[0], abs=1e-12)


def test_the_metrics_are_those_of_scikit_learn():
    one = trial(1, 300, 0.8, 0.7)
    best, weights = one.candidate.argmax(1), np.ones((1, 300))
    value = {name: make(one.labels, one.candidate)(weights)[0] for name, (make, _) in MULTICLASS_METRICS.items()}
    assert value["accuracy"] == pytest.approx(peer.accuracy_score(one.labels, best))
    assert value["macro_f1"] == pytest.approx(peer.f1_score(one.labels, best, average="macro"))
    assert value["macro_recall"] == pytest.approx(peer.balanced_accuracy_score(one.labels, best))
    assert value["log_loss"] == pytest.approx(peer.log_loss(one.labels, one.candidate))


def test_a_class_nobody_has_test_pictures_of_changes_no_metric():
    one = trial(2, 200, 0.8, 0.7)
    here = one.labels != 2
    for name in ("macro_f1", "macro_recall"):
        make, _ = MULTICLASS_METRICS[name]
        value = make(one.labels[here], one.candidate[here])(np.ones((1, here.sum())))[0]
        assert 0 < value < 1
    recall = peer.recall_score(one.labels[here], one.candidate[here].argmax(1), labels=[0, 1], average="macro")
    assert make(one.labels[here], one.candidate[here])(np.ones((1, here.sum())))[0] == pytest.approx(recall)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = np.full(20_000, 0.7)
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = (rng.random(20_000) > 0.7).astype(int)
    error = calibration_error(labels, probabilities)(np.ones((1, 20_000)))[0]
    assert error == pytest.approx(abs((labels == 0).mean() - 0.7), abs=1e-12) and error < 0.02


@pytest.mark.parametrize(("level", "shared"), [(0.6, 0.0), (0.9, 0.9), (0.97, 0.9)])
def test_of_equal_models_at_most_one_in_twenty_is_found_better(level, shared):
    """400 pairs of equally good models on 500 test pictures each, for weak and strong ones, alike and unlike."""
    trials = (trial(seed, 500, level, level, shared) for seed in range(400))
    wins = sum(compare_paired(one, "accuracy", 0.95, 200, seed=1).low > 0 for one in trials)
    assert wins / 400 <= 0.05


def test_a_clearly_better_model_is_found_better():
    wins = sum(compare_paired(trial(seed, 500, 0.9, 0.8), "accuracy", 0.95, 400).low > 0 for seed in range(50))
    assert wins / 50 > 0.9


@pytest.mark.parametrize("name", MULTICLASS_METRICS)
def test_a_better_model_gains_in_every_metric_and_a_worse_one_loses(name):
    one = trial(3, 400, 0.95, 0.6)
    found = compare_paired(one, name, 0.95, 200)
    turned = compare_paired(
        PairedPredictions(one.labels, one.champion, one.candidate, CLASSES, one.groups), name, 0.95, 200
    )
    assert found.low <= found.gain <= found.high
    assert found.gain > 0 > turned.gain
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_pictures_that_belong_together_count_as_one():
    one = trial(4, 100, 0.85, 0.7)
    copies = np.repeat(np.arange(100), 9)
    many = PairedPredictions(one.labels[copies], one.candidate[copies], one.champion[copies], CLASSES, copies)
    as_one, as_many = (compare_paired(t, "accuracy", 0.95, 500) for t in (one, many))
    assert (as_one.low, as_one.high) == pytest.approx((as_many.low, as_many.high))
    apart = compare_paired(
        PairedPredictions(many.labels, many.candidate, many.champion, CLASSES, np.arange(900)),
        "accuracy",
        0.95,
        500,
    )
    assert apart.high - apart.low < 0.5 * (as_many.high - as_many.low)


def test_the_interval_is_the_same_each_time_and_however_it_is_cut(monkeypatch):
    one = trial(5, 60, 0.8, 0.7)
    found = compare_paired(one, "accuracy", 0.95, 300)
    assert compare_paired(one, "accuracy", 0.95, 300) == found
    monkeypatch.setattr("lightning_modules.comparison.paired._MAX_WEIGHTS_IN_CACHE", 1000)
    assert compare_paired(one, "accuracy", 0.95, 300) == found


def test_the_sign_test_is_that_of_the_binomial_distribution():
    from scipy.stats import binomtest

    for losses, gains in [(0, 0), (1, 0), (5, 0), (7, 2), (3, 9)]:
        expected = binomtest(losses, losses + gains, 0.5, "greater").pvalue if losses + gains else 1
        assert sign_test(losses, gains) == pytest.approx(expected)


def test_a_picture_that_a_model_cannot_read_is_wrong_and_not_of_the_first_class():
    labels = np.array([0, 1])
    unread = np.array([[0.0, 0.0], [0.1, 0.9]])
    both = PairedPredictions(labels, unread, np.eye(2), ("a", "b"), np.arange(2))
    found = compare_paired(both, "accuracy", 0.95, 50)
    assert (found.candidate, found.champion) == (0.5, 1.0)
    assert compare_paired(both, "macro_f1", 0.95, 50).candidate == pytest.approx(0.5)
