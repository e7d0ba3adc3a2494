from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recmtl.data.order import EpochOrder, Plan, plan, pool_bytes

PLANS = st.builds(
    lambda groups, streams, share, memory: plan(
        np.array(groups, np.int64),
        streams=streams,
        share=share,
        row_bytes=84.0,
        memory_bytes=memory,
    ),
    st.lists(st.integers(1, 900), min_size=1, max_size=4)
    | st.lists(st.integers(1, 3), min_size=300, max_size=600),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 99),
    st.integers(4_000, 150_000),
)


def stream_rows(order: EpochOrder, stream: int) -> NDArray[np.int64]:
    """Rows of a stream in the order in which they are given out."""
    low, high = order.plan.stream_range(stream)
    given_out: list[NDArray[np.int64]] = []
    place = 0
    while place < high - low:
        pool, before = order.pool(stream, place)
        rows = np.concatenate([order.rows_of(piece) for piece in pool.pieces])
        assert pool.num_rows == len(rows)
        shuffled = order.shuffled(stream, pool)
        assert np.array_equal(np.sort(shuffled), np.arange(len(rows)))
        given_out.append(rows[shuffled[before:]][: high - low - place])
        place += len(given_out[-1])
    return np.concatenate([np.empty(0, np.int64), *given_out])


@settings(max_examples=25)
@given(made=PLANS, seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_every_row_is_given_out_once(made: Plan, seed: int, epoch: int) -> None:
    order = EpochOrder(made, seed, epoch)
    if made.in_memory:
        rows = order.rows()
    else:
        rows = np.concatenate([stream_rows(order, stream) for stream in range(made.streams)])
    assert np.array_equal(np.sort(rows), np.arange(made.num_rows))


@given(made=PLANS)
def test_batches_cover_the_longest_stream(made: Plan) -> None:
    lengths = [high - low for low, high in map(made.stream_range, range(made.streams))]
    assert sum(lengths) == made.num_rows
    assert max(lengths) - min(lengths) <= 1
    assert (made.num_batches - 1) * made.share < max(lengths) <= made.num_batches * made.share


def made_of(group_rows: int, rows: int, memory_bytes: int) -> Plan:
    groups = np.full(rows // group_rows, group_rows, np.int64)
    return plan(groups, streams=8, share=512, row_bytes=184.0, memory_bytes=memory_bytes)


def test_pools_stay_within_their_part_of_the_budget() -> None:
    for group_rows in (100, 1000, 20_000, 1_000_000):
        for memory_bytes in (4 << 20, 16 << 20, 40 << 20):
            made = made_of(group_rows, 1_000_000, memory_bytes)
            order = EpochOrder(made, 0, 0)
            low, high = made.stream_range(3)
            for place in range(0, high - low, made.pool_rows // 2):
                assert order.pool(3, place)[0].num_rows <= made.pool_rows
            # One is read, and of the others some is left.
            left = [s / 8 + 1 / 8 for s in range(1, 8)]
            assert (2 + sum(left)) * made.pool_rows * 200 <= pool_bytes(memory_bytes)


def test_large_row_groups_are_cut_and_small_ones_are_joined() -> None:
    assert made_of(1_000_000, 1_000_000, 16 << 20).segment_sizes.tolist() == [125_000] * 8
    small = made_of(10, 1_000_000, 16 << 20)
    assert small.segment_sizes[:-1].tolist() == [3910] * 255
    natural = made_of(10_000, 1_000_000, 16 << 20)
    assert natural.segment_sizes.tolist() == [10_000] * 100
    assert np.array_equal(natural.segment_starts, np.arange(0, 1_000_000, 10_000))


def test_few_segments_are_read_once_for_each_pool() -> None:
    made = made_of(31_250, 1_000_000, 16 << 20)
    assert made.cells == 1
    order = EpochOrder(made, 0, 0)
    held = np.concatenate(
        [
            order.rows_of(piece)
            for stream in range(8)
            for piece in order.pool(stream, 60_000)[0].pieces
        ]
    )
    # At every moment the pools hold the same share of every row group.
    share = np.bincount(held // 31_250, minlength=32) / 31_250
    assert share.max() - share.min() < 0.001


def test_a_very_large_log_is_not_read_for_every_pool() -> None:
    made = made_of(1000, 20_000_000, 400 << 20)
    assert (made.cells, made.reads) == (2, 6)
    order = EpochOrder(made, 0, 0)
    held = [piece.start for stream in range(8) for piece in order.pool(stream, 0)[0].pieces]
    assert len(set(held)) > len(made.segment_sizes) * 0.49
    # They come from all over the log.
    spread = np.bincount(np.array(held) // 2_000_000, minlength=10)
    assert spread.min() > 0.98 * spread.mean()


def test_a_tiny_budget_does_not_read_the_log_for_every_pool() -> None:
    made = made_of(20_000, 1_000_000, 2 << 20)
    assert made.cells * made.reads * 8 * made.pool_rows > 1_000_000
    assert made.cells > 1
    assert made.reads <= 33


def test_streams_read_their_pools_at_different_times() -> None:
    made = made_of(10_000, 1_000_000, 16 << 20)
    order = EpochOrder(made, 0, 0)
    left = [(pool.num_rows - before) for pool, before in (order.pool(s, 0) for s in range(8))]
    steps = -np.diff(left)
    assert steps.min() > made.pool_rows / 16


def test_a_log_within_the_budget_is_one_pool() -> None:
    made = plan(np.array([1000]), streams=4, share=8, row_bytes=84.0, memory_bytes=140_000)
    assert made.in_memory
    assert not plan(
        np.array([1000]), streams=4, share=8, row_bytes=84.0, memory_bytes=130_000
    ).in_memory
