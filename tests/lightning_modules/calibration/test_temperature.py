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


def compute_smoothed_loss(logits, labels, temperature):
    """Platt's: a picture counts (n + 1) / (n + 2) for its class, the rest is shared by the other classes."""
    n, num_classes = logits.shape
    targets = np.where(np.eye(num_classes)[labels] > 0, (n + 1) / (n + 2), 1 / (n + 2) / (num_classes - 1))
    return -(targets * F.log_softmax(torch.tensor(logits / temperature), 1).numpy()).sum()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_on_few_pictures_with_mistakes_the_smoothed_loss_is_the_smallest(num_classes):
    labels = np.arange(12) % num_classes
    logits = 3 * np.eye(num_classes)[np.where(np.arange(12) < 9, labels, (labels + 1) % num_classes)]
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2001))
    best = grid[np.argmin([compute_smoothed_loss(logits, labels, one) for one in grid])]
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize(("label", "sign"), [(1, 1), (0, -1)])
def test_of_several_labels_none_is_infinitely_sure_either(label, sign):
    temperature = fit_temperature(np.full((20, 1), 5.0 * sign), np.full((20, 1), label))
    assert to_probabilities(np.array([[5.0]]), temperature, True)[0, 0] == pytest.approx(21 / 22, abs=1e-4)


def test_a_split_without_information_ends_at_the_smallest_or_the_largest_temperature():
    logits, labels = draw_logits()
    assert fit_temperature(-logits, labels) == pytest.approx(20.0)
    assert fit_temperature(logits / 1000, labels) == pytest.approx(0.05)


def test_a_single_class_has_a_temperature():
    assert 0.05 <= fit_temperature(np.zeros((3, 1)), np.zeros(3, int)) <= 20


def test_probabilities_of_the_textbook_and_of_logits_that_overflow():
    logits = np.array([[0.0, 2 * np.log(3)], [3000.0, -3000.0]])
    assert to_probabilities(logits, 2.0, True) == pytest.approx(np.array([[0.5, 0.75], [1, 0]]))
    assert to_probabilities(logits, 2.0, False) == pytest.approx(np.array([[0.25, 0.75], [1, 0]]))
