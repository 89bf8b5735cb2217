import numpy as np
import pytest

from lightning_modules.comparison.gain.recalibration import compute_losses_at_equal_confidence


def draw(signal: float, seed: int = 0, num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits (N, 5) in which the true class has a signal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, num)
    return labels, rng.standard_normal((num, 5)) + signal * np.eye(5)[labels]


def softmax(logits: np.ndarray, scale: float = 1.0) -> np.ndarray:
    exponentials = np.exp(scale * (logits - logits.max(1, keepdims=True)))
    return (exponentials / exponentials.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.3, 3.0, 8.0])
def test_models_that_differ_only_in_how_sure_they_are_have_equal_losses(scale):
    labels, logits = draw(2.0)
    plain, scaled = compute_losses_at_equal_confidence(labels, softmax(logits), softmax(logits, scale))
    assert np.abs(plain - scaled).max() < 1e-3


def test_a_model_that_tells_classes_apart_better_has_less_loss():
    labels, weak = draw(1.5)
    better, worse = compute_losses_at_equal_confidence(labels, softmax(weak + np.eye(5)[labels]), softmax(weak))
    assert better.mean() < 0.8 * worse.mean()


def test_a_picture_that_a_model_cannot_read_has_the_largest_loss_and_sways_no_other():
    labels, logits = draw(2.0)
    unread = softmax(logits)
    unread[3] = 0
    first, second = compute_losses_at_equal_confidence(labels, unread, softmax(logits))
    assert first[3] == first.max() == pytest.approx(np.log(5 * 402))
    rest = np.arange(400) != 3
    assert np.abs(first - second)[rest].max() < 0.02


def test_no_single_sure_mistake_outweighs_all_others():
    labels = np.zeros(50, int)
    sure = np.full((50, 2), [1.0, 0.0])
    wrong_once = sure.copy()
    wrong_once[0] = [0.0, 1.0]
    first, second = compute_losses_at_equal_confidence(labels, wrong_once, sure)
    assert first[0] <= np.log(2 * 52) and second.max() < 0.1
