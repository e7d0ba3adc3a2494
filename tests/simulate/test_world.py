from __future__ import annotations

import math

import numpy as np
import pytest

from recmtl.simulate.world import (
    CTR,
    CVR_OF_CLICKS,
    NUM_ITEMS,
    NUM_USERS,
    Context,
    World,
    draw_context,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.draw(1)


@pytest.fixture(scope="module")
def seen(world: World) -> Context:
    return draw_context(world, 100_000, np.random.default_rng(0))


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0, 2.0])
def test_probabilities_match_the_equation_in_plain_loops(signal: float) -> None:
    world = World.draw(1, num_users=300, num_items=70, signal=signal)
    seen = draw_context(world, 100_000, np.random.default_rng(0))
    p_ctr_N, p_cvr_N = world.probs(seen)
    for n in range(0, 100_000, 9_973):
        u, i = int(seen.user_N[n]), int(seen.item_N[n])
        device, hour = int(seen.device_N[n]), int(seen.time_N[n]) // 3600 % 24
        peak = world.peak_hour_C[world.category_I[i]]
        for k, prob in ((0, p_ctr_N[n]), (1, p_cvr_N[n])):
            z = world.intercept_2[k] + world.bias_2U[k][u] + world.bias_2I[k][i]
            z += [[0.15, 0.0, -0.15], [-0.2, 0.0, 0.2]][k][device]
            z += 0.15 * math.cos(math.tau * (hour - 21) / 24)
            z += signal * sum(
                t * v for t, v in zip(world.taste_2UK[k][u], world.position_IK[i], strict=True)
            )
            z += signal * world.price_reaction_2U[k][u] * world.price_z_I[i]
            z += signal * [0.25, 0.1][k] * math.cos(math.tau * (hour - peak) / 24)
            assert prob == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-12)


def test_tastes_and_biases_of_items_turn_from_day_to_day() -> None:
    """Plain loops: the logit of day n is on the arc from the world's own to another one."""
    still = World.draw(1, num_users=300, num_items=70)
    world = World.draw(1, num_users=300, num_items=70, drift=0.2)
    seen = draw_context(world, 5_000, np.random.default_rng(0), num_days=7)
    assert set(seen.day_N) == set(range(7))
    assert world.later_bias_2I is not None
    assert world.later_taste_2UK is not None
    for ours, theirs in zip(world.logits(seen), still.logits(seen), strict=True):
        first = seen.day_N == 0
        np.testing.assert_array_equal(ours[first], theirs[first])
    moved_2N = [w - s for w, s in zip(world.logits(seen), still.logits(seen), strict=True)]
    for n in range(0, 5_000, 499):
        u, i, angle = int(seen.user_N[n]), int(seen.item_N[n]), 0.2 * int(seen.day_N[n])
        for k in (0, 1):
            bias = world.bias_2I[k][i], world.later_bias_2I[k][i]
            taste = [
                sum(t * v for t, v in zip(tastes, world.position_IK[i], strict=True))
                for tastes in (world.taste_2UK[k][u], world.later_taste_2UK[k][u])
            ]
            own, later = bias[0] + taste[0], bias[1] + taste[1]
            moved = (math.cos(angle) - 1) * own + math.sin(angle) * later
            assert moved_2N[k][n] == pytest.approx(moved, rel=1e-9, abs=1e-12)
    assert sorted(world.bias_2I[0]) == sorted(world.later_bias_2I[0])
    assert abs(np.corrcoef(world.bias_2I[0], world.later_bias_2I[0])[0, 1]) < 0.4


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("signal", [0.0, 1.0, 10.0])
def test_every_world_has_the_stated_rates(seed: int, signal: float) -> None:
    world = World.draw(seed, signal=signal)
    p_ctr_N, p_cvr_N = world.probs(draw_context(world, 100_000, np.random.default_rng(9)))
    assert p_ctr_N.mean() == pytest.approx(CTR, abs=0.005)
    assert np.average(p_cvr_N, weights=p_ctr_N) == pytest.approx(CVR_OF_CLICKS, abs=0.01)


def test_clicked_impressions_are_a_biased_sample_for_conversions(
    world: World, seen: Context
) -> None:
    p_ctr_N, p_cvr_N = world.probs(seen)
    assert np.average(p_cvr_N, weights=p_ctr_N) > 1.2 * p_cvr_N.mean()
    ctr_N, cvr_N = world.logits(seen)
    assert 0.2 < np.corrcoef(ctr_N, cvr_N)[0, 1] < 0.8


def test_users_and_items_recur(seen: Context) -> None:
    assert NUM_USERS >= 5_000
    assert NUM_ITEMS >= 2_000
    assert np.unique(seen.user_N).size > 0.98 * NUM_USERS
    assert np.unique(seen.item_N).size > 0.98 * NUM_ITEMS


def test_another_seed_is_another_world(world: World) -> None:
    assert not np.array_equal(world.bias_2U, World.draw(2).bias_2U)
    assert np.array_equal(world.bias_2U, World.draw(1).bias_2U)
