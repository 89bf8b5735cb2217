import numpy as np
import pytest

from lightning_modules.explain.translation import (
    DenseNetwork,
    choose_shift_distances,
    measure_shift_curve,
    shift_images,
    train_dense_network,
)


def test_moved_pictures_keep_their_edge():
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    assert shift_images(image, 0, 1)[0, ..., 0].tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    assert shift_images(image, -1, 0)[0, ..., 0].tolist() == [[3, 4, 5], [6, 7, 8], [6, 7, 8]]


@pytest.fixture
def dots():
    """Two pictures of 20 x 20 with a bright square in the middle, of class 0."""
    images = np.zeros((2, 20, 20, 1), np.uint8)
    images[:, 8:12, 8:12] = 255
    return images, np.array([0, 0])


def predict_by_light(x):
    share = 0.5 + x.mean(axis=(1, 2, 3)) / 255
    return np.stack([share, 1 - share], axis=1)


def predict_by_place(x):
    share = 0.9 * x[:, 9:11, 9:11].mean(axis=(1, 2, 3)) / 255
    return np.stack([share, 1 - share], axis=1)


def test_a_network_that_only_counts_light_keeps_all_of_its_predictions(dots):
    images, labels = dots
    curve = measure_shift_curve(predict_by_light, images, choose_shift_distances(20, 4), labels)
    assert curve.consistency == 1 and set(curve.accuracy) == {1.0}


def test_a_network_that_looks_at_one_place_loses_its_predictions(dots):
    images, labels = dots
    curve = measure_shift_curve(predict_by_place, images, [0, 2, 4], labels)
    assert curve.same == (1.0, 0.0, 0.0) and curve.accuracy == (1.0, 0.0, 0.0)
    assert curve.near_px == 2 and curve.consistency == 0


def test_no_share_of_kept_predictions_is_above_one(dots):
    """A probability that rises where pictures move is no more than the same prediction."""
    images, _ = dots

    def rise_when_moved(x):
        share = 0.9 - 0.3 * x[:, 9:11, 9:11].mean(axis=(1, 2, 3)) / 255
        return np.stack([share, 1 - share], axis=1)

    curve = measure_shift_curve(rise_when_moved, images, [0, 2, 4])
    assert curve.probability[1] > curve.probability[0] and curve.consistency == 1 and curve.accuracy == ()


def test_of_a_multi_label_model_the_whole_set_is_compared(dots):
    images, _ = dots
    labels = np.array([[1, 1], [1, 0]])

    def predict_both(x):
        return np.stack([np.full(len(x), 0.9), x[:, 9, 9, 0] / 255], axis=1)

    curve = measure_shift_curve(predict_both, images, [0, 4], labels, thresholds=[0.5, 0.5])
    assert curve.accuracy == (0.5, 0.5) and curve.same == (1.0, 0.0)


def test_the_fully_connected_network_learns_a_place():
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 200)
    images = draws.integers(0, 60, (200, 40, 40, 1), dtype=np.uint8)
    images[labels == 1, :, 20:] += 150
    network = train_dense_network(images, labels, 2, seed=0)
    assert network.side_px == 32 and network.hidden.in_features == 32 * 32
    assert (network.predict(images).argmax(axis=1) == labels).mean() > 0.95
    again = train_dense_network(images, labels, 2, seed=0)
    assert (network.predict(images) == again.predict(images)).all()


def test_it_learns_sets_of_labels_too():
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (200, 2))
    images = draws.integers(0, 60, (200, 8, 8, 3), dtype=np.uint8)
    images[labels[:, 0] == 1, :4] += 150
    images[labels[:, 1] == 1, 4:, :, 1] += 150
    network = train_dense_network(images, labels, 2, seed=0)
    assert isinstance(network, DenseNetwork)
    assert ((network.predict(images) >= 0.5) == labels).mean() > 0.9
