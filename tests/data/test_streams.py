from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from recmtl.batch import Batch
from recmtl.data import Encoders, Log, TrainStreams, open_log
from recmtl.errors import DataError, SpecError
from tests.data.strategies import make_spec
from tests.data.test_encode import assert_equal
from tests.data.worlds import funnel, log_of

BUDGETS = {"in memory": 10_000_000, "pools": 60_000, "few reads": 150_000}
ROWS = 2003


@pytest.fixture(scope="module")
def world() -> tuple[Log, Encoders]:
    log, spec = funnel(ROWS)
    return log, Encoders.fit(spec, train=log)


def streams(
    world: tuple[Log, Encoders],
    memory_bytes: int,
    *,
    batch_size: int = 64,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TrainStreams:
    return TrainStreams(
        *world,
        batch_size=batch_size,
        seed=seed,
        memory_bytes=memory_bytes,
        rank=rank,
        world_size=world_size,
    )


def rows(batches: list[Batch]) -> list[list[int]]:
    return [batch.rows_B.tolist() for batch in batches]


@pytest.mark.parametrize("memory_bytes", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_each_row_once_and_equal_batches_at_every_world_size_pitfall_T39(
    world: tuple[Log, Encoders], memory_bytes: int, seed: int
) -> None:
    alone = rows(list(streams(world, memory_bytes, seed=seed).batches(0)))
    read = [r for batch in alone for r in batch if r >= 0]
    assert sorted(read) == list(range(ROWS))
    for world_size in (2, 4, 8):
        ranks = [
            streams(world, memory_bytes, seed=seed, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        parts = [rows(list(r.batches(0))) for r in ranks]
        assert {len(part) for part in parts} == {len(alone)} == {r.num_batches for r in ranks}
        assert {len(batch) for part in parts for batch in part} == {64 // world_size}
        for k, batch in enumerate(alone):
            together = [r for part in parts for r in part[k]]
            assert sorted(together) == sorted(batch)


@pytest.mark.parametrize("memory_bytes", BUDGETS.values(), ids=BUDGETS)
@pytest.mark.parametrize("world_size", [1, 4])
def test_resumed_batches_equal_uninterrupted_ones_pitfall_T40(
    world: tuple[Log, Encoders], memory_bytes: int, world_size: int
) -> None:
    rank = world_size - 1
    whole = list(streams(world, memory_bytes, rank=rank, world_size=world_size).batches(3))
    for start in (0, 1, 11, len(whole) - 1, len(whole)):
        fresh = streams(world, memory_bytes, rank=rank, world_size=world_size)
        resumed = list(fresh.batches(3, start))
        assert len(resumed) == len(whole) - start
        for a, b in zip(resumed, whole[start:], strict=True):
            assert_equal(a, b)


@pytest.mark.parametrize("memory_bytes", BUDGETS.values(), ids=BUDGETS)
def test_rows_carry_their_own_values(world: tuple[Log, Encoders], memory_bytes: int) -> None:
    log, encoders = world
    frame = log.read(encoders.columns(labels=True), 0, ROWS)
    whole = encoders.encode(frame, labels=True)
    for batch in streams(world, memory_bytes).batches(1):
        real = batch.rows_B >= 0
        index_M = batch.rows_B[real]
        assert_equal(batch.select(torch.arange(len(batch))[real]), whole.select(index_M))
        assert not batch.weight_B[~real].any()


@pytest.mark.parametrize("memory_bytes", BUDGETS.values(), ids=BUDGETS)
def test_order_depends_on_seed_and_epoch_alone(
    world: tuple[Log, Encoders], memory_bytes: int
) -> None:
    first = streams(world, memory_bytes)
    a, b = rows(list(first.batches(0))), rows(list(first.batches(1)))
    assert a != b
    assert rows(list(first.batches(0))) == a
    assert rows(list(streams(world, memory_bytes, seed=1).batches(0))) != a


def test_the_order_never_changes(world: tuple[Log, Encoders]) -> None:
    # Golden: a change here changes every training run.
    head = {name: rows(list(streams(world, m).batches(0)))[0][:8] for name, m in BUDGETS.items()}
    assert head == GOLDEN


GOLDEN = {
    "in memory": [490, 206, 1870, 1467, 414, 1549, 1732, 1528],
    "pools": [1395, 79, 72, 1341, 64, 1335, 35, 63],
    "few reads": [1353, 1377, 74, 30, 1735, 1352, 27, 56],
}


def test_a_small_budget_needs_several_pools(world: tuple[Log, Encoders]) -> None:
    small = streams(world, BUDGETS["pools"])
    assert not small.plan.in_memory
    assert small.plan.pool_rows < ROWS / 8 / 2
    assert streams(world, BUDGETS["in memory"]).plan.in_memory


@pytest.mark.parametrize("group_rows", [1000, 5000, 40_000])
@pytest.mark.parametrize("share", [0, 10], ids=["in memory", "a tenth"])
def test_a_sorted_log_is_mixed_as_by_chance(share: int, group_rows: int) -> None:
    """Sorted by time, by label, and in runs of one label: batches are as if rows were drawn."""
    num_rows, size = 40_000, 128
    at = np.arange(num_rows)
    columns = {
        "time": at / num_rows * 2 - 1,
        "label": np.where(at < 0.9 * num_rows, -1.0, 1.0),
        "runs": np.random.default_rng(0).choice([-1.0, 1.0], num_rows // 50).repeat(50),
    }
    frame = pl.DataFrame({**columns, "click": [0, 1] * (num_rows // 2)})
    features = [{"name": name, "type": "dense", "normalize": "none"} for name in columns]
    log = log_of(frame, group_rows=group_rows)
    encoders = Encoders.fit(make_spec(features, CTR), train=log)
    budget = int(num_rows * encoders.row_bytes / share) if share else 10**8
    train = TrainStreams(log, encoders, batch_size=size, seed=0, memory_bytes=budget)
    assert train.plan.in_memory == (not share)
    means_DK = torch.stack([batch.dense_DB.mean(1) for batch in train.batches(0)][:-1], 1)
    for name, mean_K in zip(columns, means_DK.double().numpy(), strict=True):
        mean_K = mean_K - columns[name].mean()
        # The 311 means of perfect shuffles have this spread within 8 %, and these correlations.
        assert mean_K.std() / (columns[name].std() / size**0.5) < 1.15, name
        together = [mean_K[:-lag] @ mean_K[lag:] / (mean_K @ mean_K) for lag in range(1, 21)]
        assert np.mean(together) < 0.04, name
        assert np.abs(together).max() < 0.25, name


def test_a_budget_that_cannot_hold_a_batch_is_refused(world: tuple[Log, Encoders]) -> None:
    match = (
        r"`data\.memory` is 0\.0 MiB, but the pools in which a log of 2,003 rows of about \d+ "
        r"bytes is shuffled must hold a batch of 512 rows\. Use at least `data\.memory=1MiB`, or a "
        r"smaller `train\.batch_size`"
    )
    with pytest.raises(SpecError, match=match):
        streams(world, 20_000, batch_size=512)


CTR = [{"name": "ctr", "label": "click"}]


@pytest.mark.parametrize("memory_bytes", [10_000_000, 2_000], ids=["in memory", "pools"])
@pytest.mark.parametrize("num_rows", [1, 3, 9, 40])
def test_fewer_rows_than_streams(memory_bytes: int, num_rows: int) -> None:
    log, spec = funnel(num_rows)
    world = log, Encoders.fit(spec, train=log)
    ranks = [streams(world, memory_bytes, batch_size=8, rank=r, world_size=4) for r in range(4)]
    parts = [list(r.batches(0)) for r in ranks]
    assert {len(batch) for part in parts for batch in part} == {2}
    read = [r for part in parts for batch in rows(part) for r in batch if r >= 0]
    assert sorted(read) == list(range(num_rows))
    assert {len(b.labels_BK[0]) for part in parts for b in part} == {1}


def test_the_epoch_is_read_once_when_it_fits(
    world: tuple[Log, Encoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = world[0]
    reads = []
    take = log.take
    monkeypatch.setattr(log, "take", lambda *args: reads.append(args) or take(*args))
    train = streams(world, BUDGETS["in memory"])
    for epoch in range(3):
        assert len(list(train.batches(epoch))) == train.num_batches
    assert len(reads) == 1


def test_resuming_reads_only_the_pools_that_follow(
    world: tuple[Log, Encoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = world[0]
    count = {"rows": 0}
    take = log.take

    def counting(columns: list[str], numbers: NDArray[np.int64]) -> pl.DataFrame:
        count["rows"] += len(numbers)
        return take(columns, numbers)

    monkeypatch.setattr(log, "take", counting)
    train = streams(world, BUDGETS["pools"])
    list(train.batches(0))
    assert count["rows"] == ROWS
    count["rows"] = 0
    list(train.batches(0, train.num_batches - 1))
    assert count["rows"] < ROWS / 2


def test_sizes_that_do_not_divide(world: tuple[Log, Encoders]) -> None:
    with pytest.raises(SpecError, match=r"`train.streams` is 8, but 3 processes train") as caught:
        streams(world, 1, world_size=3, batch_size=100)
    assert str(caught.value).splitlines() == [
        "`train.streams` is 8, but 3 processes train: their number must divide it. Use "
        "`train.streams=9`.",
        "`train.batch_size` is 100, but it must be a multiple of `train.streams` (8). Use "
        "`train.batch_size=104`.",
    ]


def test_an_error_while_reading_reaches_the_consumer(tmp_path: Path) -> None:
    spec = make_spec([{"name": "x", "type": "dense"}], CTR)
    pl.DataFrame({"x": [1.0] * 50, "click": [0, 1] * 25}).write_parquet(tmp_path / "good.parquet")
    encoders = Encoders.fit(spec, train=open_log(tmp_path / "good.parquet"))
    pl.DataFrame({"x": [1.0] * 50, "click": [0, 7] * 25}).write_parquet(tmp_path / "bad.parquet")
    log = open_log(tmp_path / "bad.parquet")
    train = TrainStreams(log, encoders, batch_size=8, seed=0, memory_bytes=10**6)
    with pytest.raises(DataError, match=r"bad\.parquet, rows 0 to 49: column `click`: 25 labels"):
        list(train.batches(0))
    (tmp_path / "bad.parquet").unlink()
    with pytest.raises(DataError, match=r"bad\.parquet: the file is corrupt or changed"):
        list(train.batches(0))
    assert not [t for t in threading.enumerate() if t.name == "recmtl-prefetch"]
