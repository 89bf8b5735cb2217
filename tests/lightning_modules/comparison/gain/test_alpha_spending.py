import pytest

from lightning_modules.comparison.gain.alpha_spending import compute_share, compute_tail


def test_all_decisions_on_the_same_pictures_together_spend_no_more_than_the_total():
    spent = [compute_tail(0.05, {num_earlier: 250}) for num_earlier in range(10_000)]
    assert spent[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert 0.0499 < sum(spent) < 0.05


def test_new_pictures_bring_the_share_back_that_they_are_of_all():
    old, fresh = compute_share(14), compute_share(0)
    assert compute_tail(0.05, {14: 300, 0: 100}) == pytest.approx(0.05 * (0.75 * old + 0.25 * fresh))
    assert compute_tail(0.05, {0: 400}) == 0.025
