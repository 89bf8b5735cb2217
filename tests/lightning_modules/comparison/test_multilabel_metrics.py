import numpy as np
import pytest
from sklearn import metrics as peer

from lightning_modules.comparison.multilabel_metrics import MULTILABEL_METRICS
from lightning_modules.comparison.paired import (
    PairedPredictions,
    compare_paired,
    iter_resamples,
)

ONES = np.ones((1, 200))


def trial(seed: int, new: float, old: float) -> PairedPredictions:
    """Two models on 200 pictures of three labels; the larger the number, the better it tells them."""
    draws = np.random.default_rng(seed)
    labels = (draws.random((200, 3)) < (0.5, 0.2, 0.9)).astype(np.uint8)

    def outputs(skill: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(skill * (2.0 * labels - 1) + draws.normal(0, 1, labels.shape))))

    newcomer, champion = outputs(new), outputs(old)
    return PairedPredictions(
        labels, newcomer, champion, ("a", "b", "c"), np.arange(200), newcomer > 0.5, champion > 0.5
    )


@pytest.mark.parametrize("name", MULTILABEL_METRICS)
def test_weights_count_like_copies_of_the_pictures(name):
    one = trial(0, 1.0, 1.0)
    make, _ = MULTILABEL_METRICS[name]
    for row in next(iter_resamples(one, 3, seed=0)):
        copies = np.repeat(np.arange(200), row.astype(int))
        alone = make(one.labels[copies], one.candidate[copies], one.candidate_predicted[copies])(ONES)
        assert make(one.labels, one.candidate, one.candidate_predicted)(row[None])[0] == pytest.approx(
            alone[0], abs=1e-9
        )


def test_the_metrics_are_those_of_scikit_learn():
    one = trial(1, 1.0, 0.5)
    labels, said = one.labels, one.candidate_predicted
    value = {name: make(labels, one.candidate, said)(ONES)[0] for name, (make, _) in MULTILABEL_METRICS.items()}
    assert value["map"] == pytest.approx(peer.average_precision_score(labels, one.candidate))
    assert value["accuracy"] == pytest.approx(peer.accuracy_score(labels, said))
    assert value["macro_f1"] == pytest.approx(peer.f1_score(labels, said, average="macro"))
    assert value["micro_f1"] == pytest.approx(peer.f1_score(labels, said, average="micro"))
    assert value["macro_recall"] == pytest.approx(peer.recall_score(labels, said, average="macro"))
    losses = [peer.log_loss(labels[:, i], one.candidate[:, i]) for i in range(3)]
    assert value["log_loss"] == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("name", [name for name in MULTILABEL_METRICS if name != "calibration_error"])
def test_a_better_newcomer_gains_by_every_metric_and_an_equal_one_by_none(name):
    better = compare_paired(trial(2, 2.0, 0.5), name, 0.95, 400)
    assert better.gain > 0 and better.low > 0
    one = trial(3, 1.0, 1.0)
    same = PairedPredictions(
        one.labels, one.candidate, one.candidate, one.classes, one.groups, *[one.candidate_predicted] * 2
    )
    assert compare_paired(same, name, 0.95, 400).gain == compare_paired(same, name, 0.95, 400).low == 0


@pytest.mark.parametrize("name", MULTILABEL_METRICS)
def test_a_loss_counts_as_a_gain_when_it_falls(name):
    assert MULTILABEL_METRICS[name][1] == (-1.0 if name in ("log_loss", "calibration_error") else 1.0)


def test_f1_punishes_a_wrong_label_of_a_rare_class_where_others_are_right():
    """The labels and the predictions swap places: F1 has to know which labels occur at all."""
    labels = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]])
    predicted = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
    value = MULTILABEL_METRICS["macro_f1"][0](labels, predicted.astype(float), predicted)(np.ones((1, 3)))[0]
    assert value == pytest.approx((1 + 2 / 3) / 2)  # no image has the label in the middle


def test_a_sure_mistake_has_a_large_loss_and_not_an_endless_one():
    labels, probabilities = np.array([[1, 0]]), np.array([[0.0, 0.0]])
    value = MULTILABEL_METRICS["log_loss"][0](labels, probabilities, probabilities > 0.5)(np.ones((1, 1)))[0]
    assert value == pytest.approx(-np.log(1e-12) / 2)


def test_the_calibration_error_is_the_gap_of_each_of_fifteen_bins_weighted_by_its_size():
    """The bins at both ends are full and have gaps against those of their neighbours."""
    rows = [
        (0.01, 1),
        (0.05, 0),
        (0.08, 0),
        (0.12, 0),
        (0.5, 1),
        (0.52, 0),
        (0.9, 1),
        (0.92, 1),
        (0.95, 0),
        (1.0, 1),
    ]
    probabilities, labels = (np.array(column).reshape(5, 2) for column in zip(*rows, strict=True))
    bins = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    gaps = [abs(sum(rows[at][0] - rows[at][1] for at in each)) for each in bins]
    metric = MULTILABEL_METRICS["calibration_error"][0](labels, probabilities, probabilities > 0.5)
    assert metric(np.ones((1, 5)))[0] == pytest.approx(sum(gaps) / 10)
    twice = metric(np.array([[2.0] * 5, [0, 0, 1.0, 0, 0]]))
    assert twice == pytest.approx([sum(gaps) / 10, gaps[2] / 2])
