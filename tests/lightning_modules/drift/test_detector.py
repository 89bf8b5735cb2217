from dataclasses import replace

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
    count_groups,
    detect_drift,
    gaussian_kernel,
    scale_directions,
)
from lightning_modules.drift.group_permutation import MIN_GROUPS, ImageGroups
from lightning_modules.features.reference_sample import ImageSample
from tests.helpers.models import make_reference_sample

RULES = DriftParams(alpha=0.001, permutations=9999, seed=0)
CLASSES = ("cat", "dog", "owl")


def test_a_chance_is_what_it_says_and_batches_of_the_same_source_are_not_called_drifted():
    found = [
        detect_drift(make_reference_sample(300, 1000 + seed), make_reference_sample(60, seed), RULES, CLASSES, 0.4)
        for seed in range(30)
    ]
    assert sum(one.drifted for one in found) == 0
    assert {len(one.checks) for one in found} == {8}
    p = np.array([check.p for one in found for check in one.checks])
    assert 0.03 < (p < 0.1).mean() < 0.13 and 0.35 < (p < 0.5).mean() < 0.6


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


def stand_alone(num_reference: int, num_batch: int) -> ImageGroups:
    """Groups of one picture each."""
    return ImageGroups.join(np.arange(num_reference), np.arange(num_batch))


def test_the_witness_points_at_the_pictures_that_are_new():
    draws = np.random.default_rng(0)
    old, new = draws.normal(0, 1, (50, 8)), draws.normal(3, 1, (10, 8))
    batch = np.concatenate([old, new])
    _, witness = compare_features(draws.normal(0, 1, (200, 8)), batch, stand_alone(200, 60), RULES)
    assert set(np.argsort(-witness)[:10]) == set(range(50, 60))


def test_the_distance_is_that_of_its_definition():
    draws = np.random.default_rng(0)
    x, y = draws.normal(0, 1, (20, 3)), draws.normal(1, 1, (30, 3))
    check, witness = compare_features(x, y, stand_alone(20, 30), RULES)
    points = scale_directions(np.concatenate([x, y]), np.ones(50))
    squares = ((points[:, None] - points) ** 2).sum(axis=2)
    scale = np.median(squares[np.triu_indices(50, 1)])
    kernel = np.exp(-squares / (2 * scale))
    np.testing.assert_allclose(gaussian_kernel(points), kernel, atol=1e-6)
    squared = kernel[:20, :20].mean() + kernel[20:, 20:].mean() - 2 * kernel[:20, 20:].mean()
    assert check.distance == pytest.approx(squared**0.5, rel=1e-4)
    np.testing.assert_allclose(witness, kernel[20:, 20:].mean(1) - kernel[20:, :20].mean(1), atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 5), (40, 70)])
def test_directions_are_scaled_to_variance_one_and_the_strongest_come_first(shape):
    points = np.random.default_rng(0).normal(0, 10 * 0.5 ** np.arange(shape[1]), shape)
    scaled = scale_directions(points, np.ones(len(points)))
    variances = scaled.var(axis=0)
    assert len(variances) == min(shape[1], 20) and (np.diff(variances) < 1e-9).all() and variances[0] < 1
    assert abs(np.corrcoef(scaled[:, 0], points[:, 0])[0, 1]) > 0.95 and variances[0] > 0.9


def test_features_that_are_all_alike_are_no_drift():
    check, witness = compare_features(np.ones((40, 4)), np.ones((20, 4)), stand_alone(40, 20), RULES)
    assert check.p == 1 and np.isfinite(witness).all()


# ---- groups ----------------------------------------------------------------------------------------------------


def draw_scenes(num_scenes: int, each: int, seed: int, shift: float = 0.0) -> ImageSample:
    """Pictures of scenes: those of a scene resemble each other in all that is compared."""
    draws = np.random.default_rng(seed)
    scenes = np.repeat(np.arange(num_scenes), each)

    def draw(scale: float, *shape: int) -> np.ndarray:
        return scale * (0.7 * draws.normal(0, 1, (num_scenes, *shape))[scenes]
                        + 0.7 * draws.normal(0, 1, (len(scenes), *shape)))  # fmt: skip

    return ImageSample(
        features=draw(1.0, 12) + shift, classes=np.minimum(np.abs(draw(1.5)), 2).astype(int),
        confidence=(0.7 + draw(0.1)).astype(np.float32), brightness=0.5 + draw(0.1) + shift / 10,
        contrast=0.2 + draw(0.05), short_side_px=np.full(len(scenes), 64), rejected=np.array([0, num_scenes]),
        groups=scenes,
    )  # fmt: skip


LOOSE = DriftParams(alpha=0.05, permutations=199, seed=0)


def count_alarms(num_scenes: int, use_groups: bool, num: int = 30, shift: float = 0.0) -> int:
    found = 0
    for seed in range(num):
        samples = draw_scenes(60, 5, 1000 + seed), draw_scenes(num_scenes, 20, seed, shift)
        samples = samples if use_groups else tuple(replace(sample, groups=None) for sample in samples)
        found += detect_drift(*samples, LOOSE, CLASSES).drifted
    return found


@pytest.mark.parametrize(("num_scenes", "num"), [(5, 30), (20, 10)])
def test_batches_of_scenes_raise_no_more_false_alarms_than_alpha(num_scenes, num):
    assert count_alarms(num_scenes, use_groups=True, num=num) <= (4 if num == 30 else 2)  # 5% are to be expected
    assert count_alarms(num_scenes, use_groups=False, num=5) >= 3  # pictures as if each stood alone


def test_a_shift_of_five_scenes_is_caught_within_two_batches():
    alarms = [count_alarms(5, use_groups=True, num=8, shift=shift) for shift in (1.0, 2.0)]
    assert alarms[0] >= 5 and alarms[1] == 8


def test_fewer_scenes_than_can_be_told_from_drift_are_not_decided():
    few = detect_drift(draw_scenes(60, 5, 0), draw_scenes(MIN_GROUPS - 1, 20, 1, shift=9.0), LOOSE, CLASSES)
    assert (few.is_decided, few.drifted, few.checks) == (False, False, ())
    assert (few.num_groups, few.min_groups) == (MIN_GROUPS - 1, MIN_GROUPS)
    enough = detect_drift(draw_scenes(60, 5, 0), draw_scenes(MIN_GROUPS, 20, 1, shift=9.0), LOOSE, CLASSES)
    assert enough.is_decided and enough.drifted


def test_a_reference_of_few_scenes_needs_more_of_them_in_a_batch():
    found = detect_drift(draw_scenes(2, 50, 0), draw_scenes(6, 20, 1), LOOSE, CLASSES)
    assert not found.is_decided and found.min_groups == 17  # 1 of 171 ways to deal out 17 of 19 scenes


def test_a_group_counts_by_its_share():
    groups = ImageGroups.join(np.array([0, 0, 1, 2]), np.array([5, 5, 5, 5, 6, 6]))
    affected = np.array([1, 0, 1, 0, 1, 1, 1, 0, 1, 0], bool)
    first, second = count_groups(affected, groups)
    assert (first.tolist(), second.tolist()) == ([1, 3], [1, 2])  # 0.5 + 1 + 0, and 0.75 + 0.5


# ---- changes that matter ---------------------------------------------------------------------------------------


def test_a_change_of_confidence_that_is_certain_but_tiny_is_no_drift():
    draws = np.random.default_rng(0)
    reference = make_reference_sample(600, seed=1, confidence=1 - draws.exponential(0.010, 600))
    tiny, large = (make_reference_sample(150, seed=5, confidence=1 - draws.exponential(mean, 150))
                   for mean in (0.004, 0.060))  # fmt: skip
    checks = {check.name: check for check in detect_drift(reference, tiny, RULES, CLASSES).checks}
    assert checks["confidence"].adjusted <= RULES.alpha
    assert not checks["confidence"].matters and not checks["confidence"].moved
    assert "confidence" in detect_drift(reference, large, RULES, CLASSES).moved_checks


@pytest.mark.parametrize(
    ("name", "before", "now", "matters"),
    [("brightness", 0.50, 0.515, False), ("brightness", 0.50, 0.525, True), ("contrast", 0.2, 0.209, False),
     ("contrast", 0.2, 0.211, True), ("short_side_px", 480, 500, False), ("short_side_px", 480, 505, True)],
)  # fmt: skip
def test_a_change_matters_from_a_size_on_in_its_own_unit(name, before, now, matters):
    check = compare_numbers(name, np.full(100, before), np.full(60, now), stand_alone(100, 60), RULES)
    assert check.matters == matters and check.distance == pytest.approx(abs(now - before))


def test_the_same_numbers_give_the_same_p():
    one, other = make_reference_sample(200, seed=1), make_reference_sample(60, seed=2, shift=0.1)
    assert detect_drift(one, other, RULES, CLASSES).checks == detect_drift(one, other, RULES, CLASSES).checks


def test_shares_agree_with_exact_tests():
    from scipy.stats import chi2_contingency, fisher_exact

    check = compare_shares("rejected", np.array([3, 400]), np.array([6, 100]))
    assert check.p == pytest.approx(fisher_exact([[6, 94], [3, 397]], alternative="greater").pvalue)
    before, now = np.repeat([0, 1, 2], [200, 150, 50]), np.repeat([0, 1, 2], [35, 45, 20])
    table = [[200, 150, 50], [35, 45, 20]]
    p = compare_classes(before, now, stand_alone(400, 100), DriftParams(0.001, 9_999, 0), CLASSES).p
    assert p == pytest.approx(chi2_contingency(table).pvalue, abs=0.02)


def test_fewer_rejected_pictures_are_no_drift():
    assert compare_shares("rejected", np.array([200, 400]), np.array([0, 100])).p == 1


def test_numbers_that_are_all_the_same_are_no_drift():
    assert compare_numbers("short_side_px", np.full(100, 32), np.full(50, 32), stand_alone(100, 50), RULES).p == 1


def test_holms_correction_is_that_of_its_paper():
    checks = [DriftCheck(str(i), 0.0, p, "") for i, p in enumerate([0.01, 0.04, 0.03, 0.005])]
    assert [round(one.adjusted, 6) for one in apply_holm_correction(checks, 0.05)] == [0.02, 0.03, 0.06, 0.06]
    assert [one.moved for one in apply_holm_correction(checks, 0.05)] == [True, True, False, False]
