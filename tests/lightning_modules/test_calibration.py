import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_modules.calibration import fit_temperature, probabilities, reliability


def drawn(n=4000, num_classes=6, seed=0):
    """Logits that are honest, and labels drawn from the probabilities that they say."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(0, 2, (n, num_classes))
    labels = (probabilities(logits, 1.0, False).cumsum(1) < draws.random((n, 1))).sum(1)
    return logits, labels.clip(0, num_classes - 1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_logits_that_were_stretched_get_the_temperature_that_undoes_it(factor):
    logits, labels = drawn()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


def test_the_temperature_is_the_one_with_the_smallest_loss():
    logits, labels = drawn(n=800)
    fitted = fit_temperature(logits * 2, labels)

    def loss(temperature):
        return F.cross_entropy(torch.tensor(logits * 2 / temperature), torch.tensor(labels)).item()

    assert loss(fitted) <= min(loss(fitted * 0.9), loss(fitted * 1.1))


def test_labels_of_their_own_each_get_one_temperature_too():
    draws = np.random.default_rng(0)
    logits = draws.normal(0, 2, (3000, 4))
    labels = (draws.random((3000, 4)) < probabilities(logits, 1.0, True)).astype(np.uint8)
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.05)


def test_no_mistake_on_a_few_pictures_is_no_reason_to_be_infinitely_sure():
    labels = np.arange(20) % 4
    temperature = fit_temperature(5 * np.eye(4)[labels], labels)
    sure = probabilities(5 * np.eye(4)[labels], temperature, False).max()
    assert sure == pytest.approx(21 / 22, abs=1e-4)


def test_without_pictures_nothing_is_changed():
    assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == 1.0


def test_a_temperature_never_changes_which_class_is_first():
    logits, _ = drawn(n=50)
    assert (probabilities(logits, 7.0, False).argmax(1) == logits.argmax(1)).all()
    assert np.allclose(probabilities(logits, 7.0, False).sum(1), 1)


def test_the_calibration_error_of_a_worked_example():
    confidence = np.array([0.95, 0.85, 0.55, 0.45])
    right = np.array([True, False, True, False])
    bins = reliability(confidence, right, 2)  # below 0.5: one, wrong at 0.45; above: two of three, at 0.7833
    assert bins.count.tolist() == [1, 3]
    assert bins.ece == pytest.approx((1 * 0.45 + 3 * (2.35 / 3 - 2 / 3)) / 4)


def test_who_is_sure_and_right_has_no_calibration_error():
    assert reliability(np.ones(5), np.ones(5, bool), 15).ece == 0


def test_honest_logits_have_a_small_calibration_error_and_stretched_ones_a_large():
    logits, labels = drawn(n=20_000)

    def ece(logits):
        p = probabilities(logits, 1.0, False)
        return reliability(p.max(1), p.argmax(1) == labels, 15).ece

    assert ece(logits) < 0.015 < 0.1 < ece(logits * 3)
