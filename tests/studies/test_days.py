"""Days of a log: their order, gaps and nulls, and a file for each."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl._progress import no_progress
from recmtl.config import RunConfig, load_spec
from recmtl.errors import DataError
from recmtl.studies.days import day_file, find_days, open_days, write_days
from tests.studies.worlds import SPEC, log


def world(folder: Path, days: Any, *, rows: int = 60, name: str = "train.parquet") -> RunConfig:
    """A log with a column `day`, and its spec."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = log(rows, 0).with_columns(pl.Series("day", days))
    if name.endswith("csv"):
        frame.write_csv(folder / name)
    else:
        frame.write_parquet(folder / name, row_group_size=7)
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return load_spec(folder / "spec.yaml", [f"data.train={name}", "data.valid=null"])


def found(folder: Path, days: Any, *, least: int = 1) -> Any:
    config = world(folder, days)
    return find_days(open_days(config, folder, "day"), "day", least=least)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10, 9, 10], ["9", "10"]),
        (["10", "9", "10"], ["9", "10"]),
        ([date(2025, 1, 10), date(2025, 1, 9), date(2025, 1, 9)], ["2025-01-09", "2025-01-10"]),
        (["2025-01-10", "2024-12-31", "2025-01-10"], ["2024-12-31", "2025-01-10"]),
        (["tue", "mon", "mon"], ["mon", "tue"]),
    ],
)
def test_days_are_in_order(tmp_path: Path, values: list[Any], expected: list[str]) -> None:
    days = found(tmp_path, values * 20)
    assert [day.name for day in days.days] == expected
    assert [day.rows for day in days.days] == [
        20 * sum(str(value) == name for value in values) for name in expected
    ]
    assert days.num_null == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 5], ("3 to 4",)),
        ([1, 3, 10**9], ("2", "4 to 999999999")),
        ([date(2025, 2, 27), date(2025, 3, 2), date(2025, 3, 3)], ("2025-02-28 to 2025-03-01",)),
        ([20250131, 20250201, 20250203], ("2025-02-02",)),
        (["2025-01-31", "2025-02-01", "2025-02-01"], ()),
        (["mon", "tue", "fri"], ()),
    ],
)
def test_days_that_are_missing_are_named(
    tmp_path: Path, values: list[Any], expected: tuple[str, ...]
) -> None:
    assert found(tmp_path, values * 20).missing == expected


def test_rows_without_a_day_are_counted(tmp_path: Path) -> None:
    days = found(tmp_path, [1, None, 2] * 20)
    assert (days.num_null, [day.rows for day in days.days]) == (20, [20, 20])
    with pytest.raises(DataError, match=r"`day` has 0 values in 60 rows \(60 of them null\)"):
        found(tmp_path / "none", pl.Series([None] * 60, dtype=pl.Int64))
    with pytest.raises(DataError, match="at least 3 days are needed"):
        found(tmp_path, [1, None, 2] * 20, least=3)


def test_what_is_no_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column `day` is Datetime.*cast to Date"):
        found(tmp_path, [datetime(2025, 1, 1), datetime(2025, 1, 2)] * 30)
    with pytest.raises(DataError, match="column `day` is Float64"):
        found(tmp_path, [1.0, 2.0] * 30)
    config = world(tmp_path, [1, 2] * 30)
    with pytest.raises(DataError, match=r"column `dya` \(the day\) is missing. Did you mean `day`"):
        open_days(config, tmp_path, "dya")
    many = world(tmp_path / "many", np.arange(600), rows=600)
    with pytest.raises(DataError, match="more than 400 values"):
        find_days(open_days(many, tmp_path / "many", "day"), "day", least=2)


@settings(max_examples=20)
@given(st.lists(st.none() | st.integers(0, 5), min_size=60, max_size=60))
def test_each_row_is_written_once_to_the_file_of_its_day(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None]
) -> None:
    folder = tmp_path_factory.mktemp("written")
    config = world(folder, pl.Series(values, dtype=pl.Int64))
    opened = open_days(config, folder, "day")
    frame = pl.read_parquet(folder / "train.parquet")
    if len(set(values) - {None}) < 1:
        return
    days = find_days(opened, "day", least=1)
    write_days(opened, days.days, "day", config, folder / "days", no_progress)
    assert sorted(file.name for file in (folder / "days").iterdir()) == [
        day_file(number) for number in range(len(days.days))
    ]
    for number, day in enumerate(days.days):
        written = pl.read_parquet(folder / "days" / day_file(number))
        expected = frame.filter(pl.col("day") == day.value)
        assert set(written.columns) == {"user", "item", "price", "click", "buy", "day"}
        assert written.equals(expected.select(written.columns))


def test_csv_becomes_the_same_days(tmp_path: Path) -> None:
    config = world(tmp_path, ["2025-01-02", "2025-01-01"] * 30, name="train.csv")
    opened = open_days(config, tmp_path, "day")
    days = find_days(opened, "day", least=2)
    assert [day.name for day in days.days] == ["2025-01-01", "2025-01-02"]
    write_days(opened, days.days, "day", config, tmp_path / "days", no_progress)
    assert pl.read_parquet(tmp_path / "days/day-0000.parquet")["day"].n_unique() == 1
