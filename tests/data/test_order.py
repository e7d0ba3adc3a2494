from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl.data.order import EpochOrder, Plan, plan

PLANS = st.builds(
    lambda groups, streams, share, memory: plan(
        np.array(groups, np.int64),
        streams=streams,
        share=share,
        row_bytes=84.0,
        memory_bytes=memory,
    ),
    st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 99),
    st.integers(20_000, 400_000),
)


def line(order: EpochOrder, made: Plan, stream: int) -> list[tuple[int, int]]:
    """Pools of a stream as (first place, rows), and that places lead to the right pool."""
    low, high = made.stream_range(stream)
    found, place = [], 0
    while place < high - low:
        pool = order.pool(stream, place)
        assert pool.start == place
        assert order.pool(stream, place + pool.num_rows - 1) == pool
        assert pool.num_rows <= max(made.pool_rows, 1)
        found.append((place, pool.num_rows))
        place += pool.num_rows
    return found


@settings(max_examples=25)
@given(made=PLANS, seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_every_row_is_in_one_pool_of_one_stream(made: Plan, seed: int, epoch: int) -> None:
    order = EpochOrder(made, seed, epoch)
    rows = []
    for stream in range(made.streams):
        for place, _ in line(order, made, stream):
            pool = order.pool(stream, place)
            rows += [r for start, stop in pool.ranges for r in range(start, stop)]
            assert sorted(order.shuffled(stream, pool).tolist()) == list(range(pool.num_rows))
    assert sorted(rows) == list(range(made.num_rows))
    assert sorted(order.rows().tolist()) == list(range(made.num_rows))


@given(made=PLANS)
def test_batches_cover_the_longest_stream(made: Plan) -> None:
    lengths = [high - low for low, high in map(made.stream_range, range(made.streams))]
    assert sum(lengths) == made.num_rows
    assert max(lengths) - min(lengths) <= 1
    assert (made.num_batches - 1) * made.share < max(lengths) <= made.num_batches * made.share


def test_large_row_groups_are_cut_so_that_a_pool_holds_several_chunks() -> None:
    made = plan(
        np.array([1_000_000, 10]), streams=8, share=512, row_bytes=84.0, memory_bytes=32_000_000
    )
    assert made.pool_rows == 30_000
    assert not made.in_memory
    assert made.chunk_sizes[:-1].max() <= 7500
    assert made.chunk_sizes[-1] == 10
    assert made.chunk_sizes.sum() == 1_000_010


def test_streams_read_their_pools_at_different_times() -> None:
    made = plan(np.array([80_000]), streams=4, share=8, row_bytes=84.0, memory_bytes=800_000)
    order = EpochOrder(made, 0, 0)
    firsts = [order.pool(stream, 0).num_rows for stream in range(4)]
    assert firsts == [made.pool_rows * (s + 1) // 4 for s in range(4)]


def test_a_log_within_the_budget_is_one_pool() -> None:
    made = plan(np.array([1000]), streams=4, share=8, row_bytes=84.0, memory_bytes=140_000)
    assert made.in_memory
    assert not plan(
        np.array([1000]), streams=4, share=8, row_bytes=84.0, memory_bytes=130_000
    ).in_memory
