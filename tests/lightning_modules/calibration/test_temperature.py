import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_modules.calibration.temperature import fit_temperature, to_probabilities
from tests.helpers.training import draw_logits


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_logits_that_were_stretched_get_the_temperature_that_undoes_it(factor):
    logits, labels = draw_logits()
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


def test_the_temperature_is_the_one_with_the_smallest_loss():
    logits, labels = draw_logits(n=800)
    fitted = fit_temperature(logits * 2, labels)

    def loss(temperature):
        return F.cross_entropy(torch.tensor(logits * 2 / temperature), torch.tensor(labels)).item()

    assert loss(fitted) <= min(loss(fitted * 0.9), loss(fitted * 1.1))


def test_labels_of_their_own_each_get_one_temperature_too():
    draws = np.random.default_rng(0)
    logits = draws.normal(0, 2, (3000, 4))
    labels = (draws.random((3000, 4)) < to_probabilities(logits, 1.0, True)).astype(np.uint8)
    assert fit_temperature(logits * 2.5, labels) == pytest.approx(2.5, rel=0.05)


def test_no_mistake_on_a_few_pictures_is_no_reason_to_be_infinitely_sure():
    labels = np.arange(20) % 4
    temperature = fit_temperature(5 * np.eye(4)[labels], labels)
    sure = to_probabilities(5 * np.eye(4)[labels], temperature, False).max()
    assert sure == pytest.approx(21 / 22, abs=1e-4)


def test_without_pictures_nothing_is_changed():
    assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == 1.0


def test_a_temperature_never_changes_which_class_is_first():
    logits, _ = draw_logits(n=50)
    assert (to_probabilities(logits, 7.0, False).argmax(1) == logits.argmax(1)).all()
    assert np.allclose(to_probabilities(logits, 7.0, False).sum(1), 1)
