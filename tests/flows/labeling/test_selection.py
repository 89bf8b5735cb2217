import numpy as np
import pytest

from benchmarks.active_learning import CHANCE, OURS, load_digits, simulate
from flows.labeling import selection
from flows.labeling.selection import select_images, select_representatives

AROUND = [(1, 0.01 * n) for n in range(6)]  # six that are alike
OTHER = [(-1, 0.01 * n) for n in range(3)]  # three that are alike, elsewhere


@pytest.mark.parametrize(
    ("vectors", "margins", "num", "selected"),
    [
        ([], [], 3, set()),
        ([*AROUND, *OTHER], [0.1] * 9, 2, {"one of each"}),
        ([(1, 0), (0, 1), (-1, 0)], [0.3, 0.2, 0.1], 9, {0, 1, 2}),  # fewer than asked for
        ([(1, 0)] * 4, [0.1] * 4, 2, {0, 1}),  # all the same
        ([(1, 0), (np.nan, 1), (np.inf, 1), (0, 0)], [0.1] * 4, 4, {0, 1, 2, 3}),
        ([(1, 0), (0, 1), (-1, 0)], [1.0, 0.5, 0.995], 1, {1}),  # the only one that is unsure
        ([(1, 0), (0, 1), (-1, 0)], [1.0, 0.5, 0.995], 2, {1, 2}),  # then the least certain
        ([(1, 0), (0, 1)], [1.0, 1.0], 1, {0}),
        ([(1, 0), (-1, 0)], [-0.4, 0.9], 1, {0}),  # several labels: a decision against the odds
        ([*AROUND, (0, 1)], [0.9] * 6 + [0.1], 1, {6}),  # unsure and alone before sure and many
    ],
)
def test_the_images_that_are_selected(vectors, margins, num, selected):
    found = select_images(np.array(vectors, float).reshape(-1, 2), margins, num)
    assert len(found) == len(set(found)) == min(num, len(vectors))
    if selected == {"one of each"}:
        assert {position < 6 for position in found} == {True, False}
    else:
        assert set(found) == selected


def test_each_step_adds_most_to_what_is_covered():
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(60, 4)), rng.random(60)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    similarity, expected = (1 + points @ points.T) / 2, []
    for _ in range(8):
        values = [weights @ similarity[:, [*expected, j]].max(axis=1) for j in range(60)]
        expected.append(int(np.argmax(values)))
    assert select_representatives(points, weights, 8) == expected


def test_a_large_pool_is_selected_from_in_parts(monkeypatch):
    monkeypatch.setattr(selection, "MAX_PART", 10)
    rng = np.random.default_rng(0)
    for num in (1, 4, 17, 35, 99):
        found = select_representatives(rng.normal(size=(35, 4)), np.ones(35), num)
        assert len(found) == len(set(found)) == min(num, 35)


def test_two_rounds_of_labels_teach_more_than_as_many_by_chance():
    digits = load_digits()
    ours, chance = (
        [simulate(digits, method, seed, num_rounds=2)[1:] for seed in (0, 1)] for method in (OURS, CHANCE)
    )
    assert np.mean(ours) > np.mean(chance) + 0.02
