import numpy as np
import pytest

from imageset.exceptions import UserError
from lightning_modules.comparison.multiclass_metrics import MULTICLASS_METRICS
from lightning_modules.comparison.paired import (
    PairedPredictions,
    check_metric,
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


def test_the_interval_holds_the_middle_part_of_the_gains_of_the_resamples():
    one = trial(6, 80, 0.8, 0.7)
    candidate, champion = ((each.argmax(1) == one.labels).astype(float) for each in (one.candidate, one.champion))
    weights = np.concatenate(list(iter_resamples(one, 400, seed=0)))
    gains = weights @ (candidate - champion) / weights.sum(1)
    found = compare_paired(one, "accuracy", 0.8, 400)
    assert (found.low, found.high) == pytest.approx((np.quantile(gains, 0.1), np.quantile(gains, 0.9)))


def test_a_picture_is_enough_and_none_is_a_mistake_of_the_caller():
    assert PairedPredictions(np.zeros(1, int), np.eye(2)[:1], np.eye(2)[:1], ("a", "b"), np.zeros(1, int))
    nothing = np.zeros((0, 2))
    with pytest.raises(AssertionError):
        PairedPredictions(np.zeros(0, int), nothing, nothing, ("a", "b"), np.zeros(0, int))


def test_of_several_labels_each_model_is_measured_by_its_own_predictions():
    labels = np.array([[1, 0], [0, 1], [1, 1]])
    right, wrong = np.where(labels > 0, 0.9, 0.2), np.where(labels > 0, 0.2, 0.9)
    pair = PairedPredictions(labels, right, wrong, ("a", "b"), np.arange(3), labels > 0, np.ones((3, 2), bool))
    accuracy, loss = (compare_paired(pair, name, 0.95, 20) for name in ("accuracy", "log_loss"))
    assert (accuracy.candidate, accuracy.champion, accuracy.sign) == (1.0, pytest.approx(1 / 3), 1.0)
    assert loss.candidate == pytest.approx(-(4 * np.log(0.9) + 2 * np.log(0.8)) / 6)
    assert loss.champion == pytest.approx(-(4 * np.log(0.2) + 2 * np.log(0.1)) / 6) and loss.gain > 0


def test_a_metric_for_several_labels_is_not_for_one():
    check_metric("map", "params.yaml", multi_label=True)
    check_metric("accuracy", "params.yaml", multi_label=True)
    check_metric("map", "params.yaml", multi_label=None)
    with pytest.raises(UserError, match=r"'map' is for multi-label datasets, .* use accuracy"):
        check_metric("map", "params.yaml", multi_label=False)
    with pytest.raises(UserError, match=r"no metric 'mpa'; did you mean 'map'\?"):
        check_metric("mpa", "params.yaml", multi_label=None)
