import pytest

from lightning_modules.lr_schedules import one_cycle, warmup_cosine


def test_the_learning_rate_rises_then_falls_to_zero():
    factors = [warmup_cosine(step, 100, 0.2) for step in range(101)]
    assert factors[:20] == sorted(factors[:20]) and factors[20:] == sorted(factors[20:], reverse=True)
    assert max(factors) == 1.0 and factors[0] > 0 and factors[100] == pytest.approx(0)
    assert [warmup_cosine(step, 10, 0.0) for step in (0, 10)] == [1.0, pytest.approx(0)]


def test_one_cycle_is_a_line_up_and_a_line_down():
    factors = [one_cycle(step, 100, 0.25) for step in range(101)]
    assert (factors[0], factors[25], factors[100]) == (0.04, 1.0, 0.0)
    assert factors[:26] == sorted(factors[:26]) and factors[25:] == sorted(factors[25:], reverse=True)
    assert factors[13] - factors[12] == pytest.approx(factors[2] - factors[1])
    assert one_cycle(0, 10, 0.0) == 1.0
