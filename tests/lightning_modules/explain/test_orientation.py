import numpy as np
import pytest

from lightning_modules.explain.orientation import measure_common_orientation, measure_filter_orientation

SOBEL = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
LAPLACIAN = np.array([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])


def make_gabor(angle: float, side: int = 15) -> np.ndarray:
    """A wave of four pixels under a Gaussian, that runs in a direction."""
    y, x = np.mgrid[:side, :side] - side // 2
    wave = np.cos(2 * np.pi / 4 * (x * np.cos(angle) + y * np.sin(angle)))
    return wave * np.exp(-(x**2 + y**2) / (2 * 3.5**2))


@pytest.mark.parametrize("angle", [0, 0.5, 1.2, 2.0])
def test_a_gabor_filter_has_the_highest_orientation_energy_in_any_direction(angle):
    assert measure_filter_orientation(make_gabor(angle)[None, None])[0] > 0.95


def test_an_edge_filter_has_much_and_a_round_one_none():
    sobel, turned, laplacian, flat = measure_filter_orientation(
        np.stack([SOBEL, SOBEL.T, LAPLACIAN, np.ones((3, 3))])[:, None]
    )
    assert sobel > 0.5 and sobel == pytest.approx(turned)
    assert laplacian < 0.05 and flat == pytest.approx(0, abs=1e-6)


def test_two_waves_at_right_angles_cancel_each_other():
    crossed = np.stack([make_gabor(0.3), make_gabor(0.3 + np.pi / 2)])[None]  # one filter of two channels
    assert measure_filter_orientation(crossed)[0] < 0.1


def test_patches_share_an_orientation_only_if_all_edges_run_the_same_way():
    upright = [make_gabor(0.0) for _ in range(9)]
    mixed = [make_gabor(angle) for angle in np.linspace(0, np.pi, 9, endpoint=False)]
    assert measure_common_orientation(upright) > 0.9
    assert measure_common_orientation(mixed) < 0.1
    assert measure_common_orientation([np.full((5, 5), 7), *upright[:1]]) > 0.9  # a flat patch counts nothing
    assert measure_common_orientation([np.zeros((5, 5)), np.zeros((1, 1))]) == 0


def test_a_strong_patch_counts_no_more_than_a_weak_one():
    weak, strong = make_gabor(0.0), 100 * make_gabor(np.pi / 2)
    assert measure_common_orientation([weak, strong]) < 0.1
