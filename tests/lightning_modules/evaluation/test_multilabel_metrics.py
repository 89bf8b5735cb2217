import numpy as np
import pytest
from sklearn import metrics as peer

from imageset.exceptions import UserError
from lightning_modules.comparison.multilabel_metrics import MULTILABEL_METRICS
from lightning_modules.comparison.paired import (
    PairedPredictions,
    check_metric,
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


def test_a_metric_for_several_labels_is_not_for_one():
    check_metric("map", "params.yaml", multi_label=True)
    check_metric("accuracy", "params.yaml", multi_label=True)
    check_metric("map", "params.yaml", multi_label=None)
    with pytest.raises(UserError, match=r"'map' is for multi-label datasets, .* use accuracy"):
        check_metric("map", "params.yaml", multi_label=False)
    with pytest.raises(UserError, match=r"no metric 'mpa'; did you mean 'map'\?"):
        check_metric("mpa", "params.yaml", multi_label=None)
