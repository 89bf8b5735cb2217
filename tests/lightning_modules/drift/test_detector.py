import numpy as np
import pytest

from lightning_modules.drift.detector import (
    DriftCheck,
    DriftParams,
    apply_holm_correction,
    compare_classes,
    compare_features,
    compare_numbers,
    compare_shares,
    detect_drift,
    gaussian_kernel,
    permutation_test,
)
from lightning_modules.features.reference_sample import ImageSample
from tests.helpers.models import make_reference_sample

RULES = DriftParams(alpha=0.001, permutations=9999, seed=0)
CLASSES = ("cat", "dog", "owl")


def test_a_chance_is_what_it_says_and_batches_of_the_same_source_are_not_called_drifted():
    found = [
        detect_drift(make_reference_sample(300, 1000 + seed), make_reference_sample(60, seed), RULES, CLASSES, 0.4)
        for seed in range(100)
    ]
    assert sum(one.drifted for one in found) == 0
    assert {len(one.checks) for one in found} == {8}
    p = np.array([check.p for one in found for check in one.checks])
    assert 0.03 < (p < 0.1).mean() < 0.12 and 0.4 < (p < 0.5).mean() < 0.6


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("features", {"features": np.random.default_rng(5).normal(0.4, 1, (60, 16)).astype(np.float32)}),
        ("classes", {"classes": np.full(60, 2)}),
        ("confidence", {"confidence": np.full(60, 0.45, np.float32)}),
        ("brightness", {"brightness": np.random.default_rng(5).normal(0.62, 0.1, 60)}),
        ("contrast", {"contrast": np.random.default_rng(5).normal(0.12, 0.05, 60)}),
        ("short_side_px", {"short_side_px": np.full(60, 640)}),
        ("rejected", {"rejected": np.array([9, 69])}),
        ("abstained", {"confidence": np.repeat([0.39, 0.7], 30).astype(np.float32)}),
    ],
)
def test_what_moved_is_named_and_nothing_else(what, changes):
    found = detect_drift(
        make_reference_sample(300, seed=1), make_reference_sample(60, seed=5, **changes), RULES, CLASSES, 0.4
    )
    moved = set(found.moved_checks)
    assert what in moved
    related = {"confidence", "abstained"}  # of the same numbers
    assert moved - {what} <= (related if what in related else set())
    assert found.checks[0].p == min(check.p for check in found.checks)


def test_what_is_not_known_of_a_batch_is_not_compared():
    answers = ImageSample(np.zeros(60, np.int64), np.full(60, 0.5, np.float32), np.array([0, 60]))
    found = detect_drift(make_reference_sample(300, seed=1), answers, RULES, CLASSES)
    assert {check.name for check in found.checks} == {"classes", "confidence", "rejected"}
    assert found.witness is None


def test_the_witness_points_at_the_pictures_that_are_new():
    draws = np.random.default_rng(0)
    old, new = draws.normal(0, 1, (50, 8)), draws.normal(3, 1, (10, 8))
    _, witness = compare_features(draws.normal(0, 1, (200, 8)), np.concatenate([old, new]), RULES)
    assert set(np.argsort(-witness)[:10]) == set(range(50, 60))


def test_the_distance_is_that_of_its_definition():
    draws = np.random.default_rng(0)
    x, y = draws.normal(0, 1, (20, 3)), draws.normal(1, 1, (30, 3))
    check, witness = compare_features(x, y, RULES)
    points = np.concatenate([x, y])
    squares = ((points[:, None] - points) ** 2).sum(axis=2)
    scale = np.median(squares[np.triu_indices(50, 1)])
    kernel = np.exp(-squares / (2 * scale))
    np.testing.assert_allclose(gaussian_kernel(points), kernel, atol=1e-6)
    squared = kernel[:20, :20].mean() + kernel[20:, 20:].mean() - 2 * kernel[:20, 20:].mean()
    assert check.distance == pytest.approx(squared**0.5, rel=1e-4)
    np.testing.assert_allclose(witness, kernel[20:, 20:].mean(1) - kernel[20:, :20].mean(1), atol=1e-5)


def test_features_that_are_all_alike_are_no_drift():
    check, witness = compare_features(np.ones((40, 4)), np.ones((20, 4)), RULES)
    assert check.p == 1 and np.isfinite(witness).all()


def test_a_permutation_p_is_never_zero_and_few_are_drawn_where_it_is_plain():
    drawn = []

    def draw(num: int) -> np.ndarray:
        drawn.append(num)
        return np.zeros(num)

    assert permutation_test(1.0, draw, 9999)[0] == 1 / 10_000
    assert sum(drawn) == 9999
    drawn.clear()
    assert permutation_test(-1.0, draw, 9999)[0] == 1.0
    assert sum(drawn) == 500


def test_the_same_numbers_give_the_same_p():
    one, other = make_reference_sample(200, seed=1), make_reference_sample(60, seed=2, shift=0.1)
    assert detect_drift(one, other, RULES, CLASSES).checks == detect_drift(one, other, RULES, CLASSES).checks


def test_shares_agree_with_exact_tests():
    from scipy.stats import chi2_contingency, fisher_exact

    check = compare_shares("rejected", np.array([3, 400]), np.array([6, 100]))
    assert check.p == pytest.approx(fisher_exact([[6, 94], [3, 397]], alternative="greater").pvalue)
    before, now = np.repeat([0, 1, 2], [200, 150, 50]), np.repeat([0, 1, 2], [35, 45, 20])
    table = [[200, 150, 50], [35, 45, 20]]
    p = compare_classes(before, now, DriftParams(0.001, 99_999, 0), CLASSES).p
    assert p == pytest.approx(chi2_contingency(table).pvalue, abs=0.01)


def test_fewer_rejected_pictures_are_no_drift():
    assert compare_shares("rejected", np.array([200, 400]), np.array([0, 100])).p == 1


def test_numbers_that_are_all_the_same_are_no_drift():
    assert compare_numbers("short_side_px", np.full(100, 32), np.full(50, 32)).p == 1


def test_holms_correction_is_that_of_its_paper():
    checks = [DriftCheck(str(i), 0.0, p, "") for i, p in enumerate([0.01, 0.04, 0.03, 0.005])]
    assert [round(one.adjusted, 6) for one in apply_holm_correction(checks, 0.05)] == [0.02, 0.03, 0.06, 0.06]
    assert [one.moved for one in apply_holm_correction(checks, 0.05)] == [True, True, False, False]
