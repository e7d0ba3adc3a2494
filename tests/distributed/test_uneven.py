"""Logs that the number of ranks does not divide: nobody waits for ever, nobody counts a row twice.

The log of the other tests has training files of 1000 and 700 rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.distributed.conftest import chosen, made_log
from tests.distributed.pool import Pool, RankFailedError

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def test_two_ranks_with_1000_and_700_rows_pitfall_T47(
    pool: Pool, log: dict[str, str], tmp_path: Path
) -> None:
    given = {**log, "overrides": chosen("ple", "row_wise")}
    runs, tests, scores = [], [], []
    for world_size in (1, 2):
        folder = tmp_path / f"{world_size}"
        folder.mkdir()
        runs += pool.run(world_size, "train", **given, folder=str(folder))[:1]
        rows = {"resume": f"{folder}/end", "path": "train"}
        tests += pool.run(world_size, "validate", **given, **rows)[:1]
        pool.run(world_size, "predict", **given, **rows, folder=str(folder))
        scores.append(np.load(folder / "predicted.npy"))
    assert runs[1]["rows"] == list(range(1700))
    assert runs[1]["metrics"]["valid/ctr/n"] == 700
    assert runs[1]["metrics"] == pytest.approx(runs[0]["metrics"], abs=1e-4, rel=0)
    assert tests[1]["test/ctr/n"] == 1700
    assert tests[1] == pytest.approx(tests[0], abs=1e-4, rel=0)
    assert scores[1].shape == (1700, 7)
    np.testing.assert_allclose(scores[1][:, :-1], scores[0][:, :-1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("rows", "valid"), [((1,), 1), ((2, 1), 3), ((65,), 700)])
def test_fewer_rows_than_ranks_pitfall_T47(
    rows: tuple[int, ...], valid: int, pool: Pool, tmp_path: Path
) -> None:
    # 65 rows are a full batch and one row; 700 rows leave the last ranks nothing of the last batch.
    log = made_log(pool, tmp_path, train=rows, valid=valid)
    runs = [
        pool.run(world_size, "train", **log, overrides=chosen("mmoe", "planned"))[0]
        for world_size in (1, 4)
    ]
    assert runs[1]["rows"] == list(range(sum(rows)))
    assert runs[1]["losses"] == pytest.approx(runs[0]["losses"], abs=1e-6, rel=0)
    assert runs[1]["metrics"]["valid/ctr/n"] == valid
    numbers = [
        {key: value for key, value in run["metrics"].items() if value is not None} for run in runs
    ]
    assert numbers[0].keys() == numbers[1].keys()
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-4, rel=0)


@pytest.mark.parametrize("tables", [(), ("device",)], ids=["no table", "one"])
def test_ranks_without_a_table(tables: tuple[str, ...], pool: Pool, tmp_path: Path) -> None:
    log = made_log(pool, tmp_path, features=("price", *tables), train=(300,), valid=50)
    plan = [f"train.sharding={{{table}: table_wise}}" for table in tables]
    given = {**log, "overrides": [*chosen("ple", "planned"), *plan]}
    runs, scores = [], []
    for world_size in (1, 4):
        folder = tmp_path / f"{world_size}"
        folder.mkdir()
        runs += pool.run(world_size, "train", **given, folder=str(folder))[:1]
        rows = {"resume": f"{folder}/end", "path": "valid.parquet", "folder": str(folder)}
        pool.run(5 - world_size, "predict", **given, **rows)
        scores.append(np.load(folder / "predicted.npy"))
    assert runs[1]["losses"] == pytest.approx(runs[0]["losses"], abs=1e-6, rel=0)
    assert runs[1]["metrics"] == pytest.approx(runs[0]["metrics"], abs=1e-4, rel=0)
    assert "rank 3 holds no rows" in runs[1]["plan"]
    np.testing.assert_allclose(scores[1][:, :-1], scores[0][:, :-1], rtol=0, atol=1e-5)


def test_a_table_with_too_few_rows_for_every_rank_is_refused(pool: Pool, tmp_path: Path) -> None:
    # FBGEMM reads beyond its arrays where a rank holds no row of a table.
    log = made_log(pool, tmp_path, train=(2,), valid=3)
    overrides = [*chosen("mmoe", "planned"), "train.sharding={user: row_wise, item: row_wise}"]
    assert "row_wise" in pool.run(2, "train", **log, overrides=overrides)[0]["plan"]
    with pytest.raises(RankFailedError) as caught:
        pool.run(4, "train", **log, overrides=overrides)
    said = "SpecError: train.sharding: table `user` has 3 rows, too few for `row_wise` over 4"
    assert str(caught.value).count(said) == 4
    assert "table `item`" not in str(caught.value)
