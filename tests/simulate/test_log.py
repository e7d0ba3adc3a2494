from __future__ import annotations

import numpy as np
import pytest

from recmtl.simulate.log import FIRST_ITEM_ID, MAX_HISTORY, click_histories, draw_log
from recmtl.simulate.world import Context, World, draw_context


@pytest.fixture(scope="module")
def world() -> World:
    return World.draw(5)


def few_users(num_rows: int, seed: int) -> Context:
    """Impressions of three users with many ties in time."""
    rng = np.random.default_rng(seed)
    return Context(
        user_N=rng.integers(0, 3, num_rows),
        item_N=rng.integers(0, 50, num_rows),
        device_N=rng.integers(0, 3, num_rows),
        time_N=np.sort(rng.integers(0, num_rows // 2, num_rows)),
    )


@pytest.mark.parametrize("max_len", [1, 4, 50])
def test_histories_are_the_clicks_strictly_before_in_plain_loops(max_len: int) -> None:
    seen = few_users(300, seed=0)
    click_N = np.random.default_rng(1).random(300) < 0.4
    items_H, offsets = click_histories(seen, click_N, max_len=max_len)
    for n in range(300):
        expected = [
            int(seen.item_N[m])
            for m in range(300)
            if click_N[m] and seen.user_N[m] == seen.user_N[n] and seen.time_N[m] < seen.time_N[n]
        ]
        assert items_H[offsets[n] : offsets[n + 1]].tolist() == expected[-max_len:]


def test_histories_without_any_click_are_empty() -> None:
    items_H, offsets = click_histories(few_users(10, seed=2), np.zeros(10, bool))
    assert len(items_H) == 0
    assert offsets.tolist() == [0] * 11


def test_histories_hold_at_most_fifty_items(world: World) -> None:
    seen = few_users(2_000, seed=3)
    frame = draw_log(world, seen, np.random.default_rng(0))
    lengths = frame["history"].list.len()
    assert lengths.max() == MAX_HISTORY
    assert frame["history"].explode().drop_nulls().min() >= FIRST_ITEM_ID


def test_a_conversion_is_a_click_with_potential(world: World) -> None:
    seen = draw_context(world, 20_000, np.random.default_rng(0))
    frame = draw_log(world, seen, np.random.default_rng(1))
    assert (frame["conversion"] == frame["click"] * frame["conversion_potential"]).all()


def test_labels_have_the_rates_that_the_log_states(world: World) -> None:
    seen = draw_context(world, 50_000, np.random.default_rng(0))
    frame = draw_log(world, seen, np.random.default_rng(1))
    for label, prob in (("click", "p_ctr"), ("conversion_potential", "p_cvr")):
        p_N, y_N = frame[prob].to_numpy(), frame[label].to_numpy()
        for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 1.0)):
            rows = (p_N >= low) & (p_N < high)
            error = np.sqrt((p_N[rows] * (1 - p_N[rows])).sum()) / rows.sum()
            assert y_N[rows].mean() == pytest.approx(p_N[rows].mean(), abs=4 * error)


def test_items_and_users_keep_their_columns(world: World) -> None:
    seen = draw_context(world, 5_000, np.random.default_rng(0))
    frame = draw_log(world, seen, np.random.default_rng(1))
    assert frame.group_by("item_id").n_unique().select("category", "brand", "price").max().row(
        0
    ) == (1, 1, 1)
    assert frame.select("brand", "category").unique().height == frame["brand"].n_unique()
    assert frame.select("user_id", "age", "gender").unique().height == frame["user_id"].n_unique()
    assert (frame["timestamp"] // 3600 % 24 == frame["hour"]).all()
    assert frame["timestamp"].is_sorted()
