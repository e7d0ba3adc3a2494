"""Intervals against printed tables, plain loops, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recmtl.studies.intervals import difference_of, mean_of, t_quantile

# The two-sided 5 % column of any printed table of Student's t.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 20: 2.086, 60: 2.000, 120: 1.980}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_table(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(TABLE[degrees], abs=5e-4)


def test_quantiles_of_two_degrees_have_a_closed_form() -> None:
    for level in (0.5, 0.9, 0.95, 0.99):
        assert t_quantile(2, level) == pytest.approx(
            level * math.sqrt(2 / (1 - level**2)), rel=1e-6
        )
    assert t_quantile(1, 0.9) == pytest.approx(math.tan(0.45 * math.pi), rel=1e-6)


def test_many_degrees_are_the_normal_distribution() -> None:
    assert t_quantile(1e9) == pytest.approx(1.96, abs=1e-3)


def test_the_mean_of_one_seed_has_no_interval() -> None:
    assert mean_of([0.7]).half_width is None
    mean = mean_of([1.0, 2.0, 4.0])
    spread = math.sqrt(sum((x - 7 / 3) ** 2 for x in (1, 2, 4)) / 2)
    assert mean.value == pytest.approx(7 / 3)
    assert mean.half_width == pytest.approx(4.30265 * spread / math.sqrt(3), rel=1e-4)


def test_one_seed_leaves_the_users() -> None:
    resampled = np.linspace(0.0, 0.1, 1001)[None]
    found = difference_of([0.75], [0.70], resampled, np.zeros_like(resampled))
    assert found.value == pytest.approx(0.05)
    assert found.seeds is None
    assert found.interval == found.users == pytest.approx((0.0025, 0.0975))
    assert not found.is_tie


def test_without_resamples_nothing_can_be_told_apart() -> None:
    nothing = np.full((2, 5), np.nan)
    found = difference_of([0.9, 0.9], [0.1, 0.1], nothing, nothing)
    assert found.users is None
    assert found.is_tie


def test_both_sides_of_chance_add_up() -> None:
    rng = np.random.default_rng(0)
    first, second = [0.72, 0.74, 0.71], [0.70, 0.71, 0.70]
    first_SR = np.array(first)[:, None] + 0.01 * rng.standard_normal((3, 500))
    second_SR = np.array(second)[:, None] + 0.01 * rng.standard_normal((3, 500))
    found = difference_of(first, second, first_SR, second_SR)
    by_seed = [a - b for a, b in zip(first, second, strict=True)]
    mean = sum(by_seed) / 3
    of_seeds = sum((d - mean) ** 2 for d in by_seed) / 2 / 3
    by_resample = [sum(first_SR[s, r] - second_SR[s, r] for s in range(3)) / 3 for r in range(500)]
    centre = sum(by_resample) / 500
    of_users = sum((d - centre) ** 2 for d in by_resample) / 499
    degrees = (of_seeds + of_users) ** 2 / (of_seeds**2 / 2)
    half = t_quantile(degrees) * math.sqrt(of_seeds + of_users)
    assert found.value == pytest.approx(mean)
    assert found.interval == pytest.approx((mean - half, mean + half), rel=1e-9)
    assert found.seeds == pytest.approx(4.30265 * math.sqrt(of_seeds), rel=1e-4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Models and users drawn anew each time: .95 of the intervals hold the true difference."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        users = 0.010 * rng.standard_normal()
        first = 0.03 + users + 0.006 * rng.standard_normal(3)
        draws = 0.010 * rng.standard_normal(200)
        first_SR = first[:, None] + draws
        found = difference_of(first.tolist(), [0.0] * 3, first_SR, np.zeros((3, 200)))
        assert found.interval is not None
        held += found.interval[0] <= 0.03 <= found.interval[1]
    assert 0.91 < held / 400 < 0.99
