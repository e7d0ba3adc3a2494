from __future__ import annotations

import polars as pl
import pytest
import torch

from recmtl.data import EncodeCounts, Encoders, Log, batches_in_order
from recmtl.errors import DataError, SpecError
from tests.data.test_encode import assert_equal
from tests.data.worlds import funnel

ROWS = 1203


@pytest.fixture(scope="module")
def world() -> tuple[Log, Encoders, pl.DataFrame]:
    log, spec = funnel(ROWS)
    encoders = Encoders.fit(spec, train=log)
    return log, encoders, log.read(encoders.columns(labels=True), 0, ROWS)


@pytest.mark.parametrize("from_log", [True, False])
@pytest.mark.parametrize("start_row", [0, 300, 1202, 1203])
def test_rows_in_order(
    world: tuple[Log, Encoders, pl.DataFrame], *, from_log: bool, start_row: int
) -> None:
    log, encoders, frame = world
    whole = encoders.encode(frame, labels=True)
    source = log if from_log else frame
    batches = list(
        batches_in_order(source, encoders, batch_size=100, labels=True, start_row=start_row)
    )
    sizes = [len(b) for b in batches]
    assert sizes == [100] * ((ROWS - start_row) // 100) + [(ROWS - start_row) % 100] * (
        (ROWS - start_row) % 100 > 0
    )
    for k, batch in enumerate(batches):
        first = start_row + 100 * k
        assert_equal(batch, whole.select(torch.arange(first, first + sizes[k])))


def test_small_pieces_give_the_same_batches(
    world: tuple[Log, Encoders, pl.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, encoders, _ = world

    def read() -> list[object]:
        return list(batches_in_order(log, encoders, batch_size=64, labels=True, prefetch=False))

    whole = read()
    monkeypatch.setattr(Encoders, "piece_rows", 100)
    for a, b in zip(whole, read(), strict=True):
        assert_equal(a, b)  # type: ignore[arg-type]


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_batch(
    world: tuple[Log, Encoders, pl.DataFrame], *, pad: bool, world_size: int
) -> None:
    log, encoders, frame = world
    whole = encoders.encode(frame, labels=True)
    counts = EncodeCounts()
    parts = []
    for rank in range(world_size):
        mine = EncodeCounts()
        ranked = batches_in_order(
            log,
            encoders,
            batch_size=1000,
            labels=True,
            rank=rank,
            world_size=world_size,
            counts=mine,
            pad=pad,
        )
        parts.append(list(ranked))
        counts.add(mine)
    assert {len(part) for part in parts} == {2}
    share = 1000 // world_size
    if pad:
        assert {len(batch) for part in parts for batch in part} == {share}
    for k in range(2):
        together = [r for part in parts for r in part[k].rows_B.tolist() if r >= 0]
        assert together == list(range(1000 * k, min(1000 * (k + 1), ROWS)))
    for part in parts:
        for batch in part:
            real = batch.rows_B >= 0
            rows = batch.select(torch.arange(len(batch))[real])
            assert_equal(rows, whole.select(batch.rows_B[real]))
            assert not batch.weight_B[~real].any()
    expected = EncodeCounts()
    encoders.encode(frame, labels=True, counts=expected)
    assert counts.to_dict() == expected.to_dict()


def test_scoring_without_labels(world: tuple[Log, Encoders, pl.DataFrame]) -> None:
    _, encoders, frame = world
    batches = batches_in_order(
        frame.drop("click"), encoders, batch_size=500, labels=False, prefetch=False
    )
    assert [b.labels_BK.shape for b in batches] == [(500, 0), (500, 0), (203, 0)]


def test_uneven_shares_are_refused(world: tuple[Log, Encoders, pl.DataFrame]) -> None:
    log, encoders, _ = world
    with pytest.raises(SpecError, match=r"multiple of the number of processes \(3\). Use 102"):
        batches_in_order(log, encoders, batch_size=100, labels=True, world_size=3)


def test_errors_say_where(world: tuple[Log, Encoders, pl.DataFrame]) -> None:
    _, encoders, frame = world
    bad = frame.with_columns(pl.lit(5).alias("click"))
    with pytest.raises(DataError, match="frame, rows 0 to 1202: column `click`: 1,203 labels"):
        list(batches_in_order(bad, encoders, batch_size=100, labels=True))
