"""Groups and segments as numbers: equal where values are equal, named and ordered by value."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl.data import open_log
from recmtl.data.codes import read_aside

COLUMNS = {
    "int": ([3, None, -(2**40), 3, 2**40, -5], ["-1099511627776", "-5", "3", "1099511627776"]),
    "near": ([3, None, 1, 3, -2, 1], ["-2", "1", "3"]),
    "uint": ([2**63 + 1, 7, 2**64 - 1, None, 7, 2**63], None),
    "float": ([0.5, -0.0, None, 0.0, float("nan"), -1.5], ["-1.5", "0.0", "0.5"]),
    "bool": ([True, None, False, True, True, False], ["False", "True"]),
    "text": (["b", "", None, "null", "a", "b"], ["", "a", "b", '"null"']),
    "date": ([datetime.date(2024, 1, d) if d else None for d in (2, 0, 1, 2, 3, 1)], None),
}


def frame() -> pl.DataFrame:
    columns = {name: values for name, (values, _) in COLUMNS.items()}
    return pl.DataFrame(columns, schema_overrides={"uint": pl.UInt64})


def equal(left: Any, right: Any) -> bool:
    """Whether two values are one, missing ones (None, NaN) among them."""
    left, right = (None if value != value else value for value in (left, right))
    return bool(left == right)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("memory", [None, 0])
def test_codes_are_equal_where_values_are(name: str, memory: int | None) -> None:
    values = frame()[name].to_list()
    aside = read_aside(frame(), name, [name], memory=memory)
    assert aside.groups is not None
    segment = aside.segments[name]
    for column in (aside.groups, segment):
        codes = column.read(np.arange(6)).tolist()
        assert max(codes) < column.num_codes
        for i, left in enumerate(values):
            assert [codes[i] == code for code in codes] == [equal(left, v) for v in values]
    assert list(segment.names[:-1]) == (COLUMNS[name][1] or list(segment.names[:-1]))
    assert segment.names[-1] == "null"
    assert len(segment.names) == segment.num_codes == len(set(segment.names))


def test_rows_are_read_by_number_in_any_order() -> None:
    segment = read_aside(frame(), None, ["near"], memory=0).segments["near"]
    names = [segment.names[code] for code in segment.read(np.array([5, 2, 4]))]
    assert names == ["1", "1", "-2"]


def test_a_log_is_read_in_pieces_whatever_its_row_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 500, 50_000)
    rows = pl.DataFrame({"user": users, "name": users.astype("U")})
    for number, size in enumerate((40_000, 100, 10_000)):
        rows[:25_000].write_parquet(tmp_path / f"{number}.parquet", row_group_size=size)
    log = open_log(tmp_path)
    whole = read_aside(log, "user", ["name"], memory=None)
    pieces = read_aside(log, "user", ["name"], memory=1 << 20)  # 2^14 rows at a time
    numbers = np.arange(75_000)
    assert whole.groups is not None
    assert pieces.groups is not None
    np.testing.assert_array_equal(whole.groups.read(numbers), pieces.groups.read(numbers))
    found = pieces.segments["name"]
    assert found.names == whole.segments["name"].names == tuple(sorted(set(rows["name"])))
    names = np.array(found.names)[found.read(numbers)]
    np.testing.assert_array_equal(names, np.tile(rows["name"][:25_000].to_numpy(), 3))
