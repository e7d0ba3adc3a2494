"""The golden batch: which rows of a log it is made of."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recmtl.data import open_log
from recmtl.exporting.golden import golden_rows
from recmtl.run import Run


@pytest.mark.parametrize("rows", [1, 7, 63, 64, 65, 400])
def test_each_row_is_there_once_and_the_whole_log_is_seen(
    rows: int, run: Path, funnel: Path, tmp_path: Path
) -> None:
    encoders = Run(run).encoders
    whole = pl.read_parquet(funnel / "train.parquet").head(rows)
    whole.with_columns(user_id=pl.int_range(rows)).write_parquet(tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet", columns=encoders.wanted(labels=False))
    golden, source = golden_rows(encoders, log)
    numbers = golden["user_id"].to_list()
    assert source == "validation rows"
    assert len(set(numbers)) == len(numbers) == min(rows, 64)
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (0, rows - 1)
