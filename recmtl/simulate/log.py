"""The log of a world: impressions, clicks, conversions and each user's earlier clicks, as a frame.

Shape letters: N impressions, M clicks in the order of user and time, H items of all histories.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from recmtl.simulate.world import DAY_S, DEVICES, GENDERS, Bools, Context, Ints, World

__all__ = ["click_histories", "days_of", "draw_log"]

FIRST_SECOND = 1_735_689_600
"""2025-01-01 00:00 UTC."""
FIRST_USER_ID = 100_000
FIRST_ITEM_ID = 10_000
MAX_HISTORY = 50


def draw_log(world: World, seen: Context, rng: np.random.Generator) -> pl.DataFrame:
    """Labels for the impressions `seen`, and all columns of the log, in the order of `seen`.

    `conversion_potential` says for every impression whether a click would have led to a conversion;
    `conversion` is that of the impressions that were clicked.
    """
    p_ctr_N, p_cvr_N = world.probs(seen)
    click_N = rng.random(len(p_ctr_N)) < p_ctr_N
    potential_N = rng.random(len(p_cvr_N)) < p_cvr_N
    items_H, offsets = click_histories(seen, click_N)
    history = pa.LargeListArray.from_arrays(offsets, items_H + FIRST_ITEM_ID)
    user_N, item_N = seen.user_N, seen.item_N
    return pl.DataFrame(
        {
            "timestamp": seen.time_N + FIRST_SECOND,
            "user_id": user_N + FIRST_USER_ID,
            "age": world.age_U[user_N],
            "gender": pl.Series(GENDERS).gather(world.gender_U[user_N]),
            "device": pl.Series(DEVICES).gather(seen.device_N),
            "hour": seen.hour_N,
            "item_id": item_N + FIRST_ITEM_ID,
            "category": world.category_I[item_N],
            "brand": world.brand_I[item_N],
            "price": world.price_I[item_N],
            "history": pl.from_arrow(history),
            "click": click_N.astype(np.int8),
            "conversion": (click_N & potential_N).astype(np.int8),
            "conversion_potential": potential_N.astype(np.int8),
            "p_ctr": p_ctr_N,
            "p_cvr": p_cvr_N,
        }
    )


def days_of(seen: Context) -> pl.Series:
    """The date of each impression.

    Example:
        >>> zero = np.zeros(2, np.int64)
        >>> days_of(Context(zero, zero, zero, np.array([0, 86_400]))).to_list()
        [datetime.date(2025, 1, 1), datetime.date(2025, 1, 2)]
    """
    days = (seen.day_N + FIRST_SECOND // DAY_S).astype(np.int32)
    return pl.Series("day", days).cast(pl.Date)


def click_histories(
    seen: Context, click_N: Bools, *, max_len: int = MAX_HISTORY
) -> tuple[Ints, Ints]:
    """What each user had clicked strictly before each impression, oldest first, the last `max_len`.

    Returns:
        The items of all rows, row by row [H], and where each row's begin: offsets [N + 1].

    Example:
        >>> zero = np.zeros(4, np.int64)
        >>> seen = Context(zero, np.array([7, 8, 9, 7]), zero, np.array([1, 1, 2, 3]))
        >>> items_H, offsets = click_histories(seen, np.array([True, False, True, False]))
        >>> [items_H[a:b].tolist() for a, b in zip(offsets, offsets[1:])]
        [[], [], [7], [7, 9]]
    """
    span = int(seen.time_N.max()) + 1
    moment_N = seen.user_N * span + seen.time_N
    clicked = np.flatnonzero(click_N)
    clicked = clicked[np.argsort(moment_N[clicked], kind="stable")]
    moment_M, item_M = moment_N[clicked], seen.item_N[clicked]
    end_N = np.searchsorted(moment_M, moment_N, side="left")
    first_N = np.searchsorted(moment_M, seen.user_N * span, side="left")
    start_N = np.maximum(first_N, end_N - max_len)
    offsets = np.concatenate([[0], (end_N - start_N).cumsum()])
    within_H = np.arange(offsets[-1]) - np.repeat(offsets[:-1], end_N - start_N)
    return item_M[np.repeat(start_N, end_N - start_N) + within_H], offsets
