from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recmtl.batch import Batch
from recmtl.data import Encoders, Log, TrainStreams, open_log
from recmtl.errors import DataError, SpecError
from tests.data.strategies import make_spec
from tests.data.test_encode import assert_equal
from tests.data.worlds import funnel, log_of

BUDGETS = {"in memory": 10_000_000, "pools": 60_000}
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
    "pools": [106, 105, 101, 100, 102, 103, 104, 161],
}


def test_a_small_budget_needs_several_pools(world: tuple[Log, Encoders]) -> None:
    small = streams(world, BUDGETS["pools"])
    assert not small.plan.in_memory
    assert small.plan.pool_rows < ROWS / 8 / 2
    assert streams(world, BUDGETS["in memory"]).plan.in_memory


@pytest.mark.parametrize("memory_bytes", [10_000_000, 1_000_000], ids=["in memory", "pools"])
def test_a_sorted_log_is_mixed(memory_bytes: int) -> None:
    rows_total = 40_000
    frame = pl.DataFrame(
        {"x": np.arange(rows_total) / rows_total, "click": [0, 1] * (rows_total // 2)}
    )
    spec = make_spec([{"name": "x", "type": "dense", "normalize": "none"}], CTR)
    log = log_of(frame, group_rows=5000)
    encoders = Encoders.fit(spec, train=log)
    train = TrainStreams(log, encoders, batch_size=512, seed=0, memory_bytes=memory_bytes)
    assert train.plan.in_memory == (memory_bytes == 10_000_000)
    means = torch.tensor([b.dense_DB[0].mean() for b in train.batches(0)])[:-1]
    # Uniform rows: the mean of 512 has a standard deviation of .0128; an unshuffled log one of .29.
    assert means.std() < (0.02 if train.plan.in_memory else 0.1)
    assert abs(float(means.mean()) - 0.5) < 0.01


CTR = [{"name": "ctr", "label": "click"}]


@pytest.mark.parametrize("memory_bytes", [10_000_000, 1], ids=["in memory", "pools"])
@pytest.mark.parametrize("num_rows", [1, 3, 9])
def test_fewer_rows_than_streams(memory_bytes: int, num_rows: int) -> None:
    log, spec = funnel(num_rows)
    encoders = Encoders.fit(spec, train=log)
    ranks = [streams((log, encoders), memory_bytes, rank=r, world_size=4) for r in range(4)]
    parts = [list(r.batches(0)) for r in ranks]
    assert {len(batch) for part in parts for batch in part} == {16}
    read = [r for part in parts for batch in rows(part) for r in batch if r >= 0]
    assert sorted(read) == list(range(num_rows))
    assert {len(b.labels_BK[0]) for part in parts for b in part} == {1}


def test_the_epoch_is_read_once_when_it_fits(
    world: tuple[Log, Encoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = world[0]
    reads = []
    read = log.read
    monkeypatch.setattr(log, "read", lambda *args: reads.append(args) or read(*args))
    train = streams(world, BUDGETS["in memory"])
    for epoch in range(3):
        assert len(list(train.batches(epoch))) == train.num_batches
    assert len(reads) == 1


def test_resuming_reads_only_the_pools_that_follow(
    world: tuple[Log, Encoders], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = world[0]
    count = {"rows": 0}
    read = log.read

    def counting(columns: list[str], start: int, stop: int) -> pl.DataFrame:
        count["rows"] += stop - start
        return read(columns, start, stop)

    monkeypatch.setattr(log, "read", counting)
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
