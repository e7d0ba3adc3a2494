from __future__ import annotations

import polars as pl
import pytest

from recmtl.data.dtypes import common, inner, is_list, normal


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pl.Int8(), pl.Int64(), pl.Int64()),
        (pl.UInt8(), pl.UInt32(), pl.UInt32()),
        (pl.UInt8(), pl.Int8(), pl.Int16()),
        (pl.Int32(), pl.UInt32(), pl.Int64()),
        (pl.UInt64(), pl.Int8(), pl.Int64()),  # never Float64, which has no room for large ids
        (pl.Float32(), pl.Float64(), pl.Float64()),
        (pl.Categorical(), pl.String(), pl.String()),
        (pl.Null(), pl.Date(), pl.Date()),
        (pl.List(pl.Int8()), pl.List(pl.Int16()), pl.List(pl.Int16())),
        (pl.List(pl.Null()), pl.List(pl.String()), pl.List(pl.String())),
        (pl.Int8(), pl.Float32(), None),
        (pl.Int8(), pl.Boolean(), pl.Int8()),
        (pl.Decimal(10, 0), pl.Boolean(), pl.Decimal(10, 0)),
        (pl.Decimal(10, 0), pl.Int8(), pl.Int64()),
        (pl.Decimal(10, 0), pl.Decimal(12, 0), pl.Decimal(12, 0)),
        (pl.Decimal(10, 2), pl.Decimal(12, 2), pl.Decimal(12, 2)),
        (pl.Decimal(10, 2), pl.Decimal(10, 3), None),
        (pl.Decimal(10, 2), pl.Float64(), None),
        (pl.Int8(), pl.List(pl.Int8()), None),
        (pl.List(pl.Int8()), pl.List(pl.String()), None),
        (pl.Datetime("us"), pl.Datetime("ms"), pl.Datetime("us")),
        (pl.Datetime("us", "UTC"), pl.Datetime("ns", "Asia/Tokyo"), pl.Datetime("ns", "UTC")),
        (pl.Datetime("us", "UTC"), pl.Datetime("us"), None),
        (pl.Datetime("us"), pl.Date(), None),
        (pl.Duration("ms"), pl.Duration("us"), pl.Duration("us")),
        (pl.Binary(), pl.String(), None),
    ],
)
def test_common(first: pl.DataType, second: pl.DataType, expected: pl.DataType | None) -> None:
    assert common(first, second) == expected
    assert common(second, first) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pl.Int8(), pl.Float32(), pl.Float64()),
        (pl.Boolean(), pl.Float32(), pl.Float64()),
        (pl.Decimal(10, 2), pl.Int8(), pl.Float64()),
        (pl.Decimal(10, 2), pl.Decimal(10, 3), pl.Float64()),
        (pl.List(pl.Int8()), pl.List(pl.Float32()), pl.List(pl.Float64())),
        (pl.Int8(), pl.Boolean(), pl.Int8()),
        (pl.Int8(), pl.String(), None),
        (pl.Float32(), pl.Date(), None),
    ],
)
def test_numbers_go_together_where_nothing_else_counts(
    first: pl.DataType, second: pl.DataType, expected: pl.DataType | None
) -> None:
    assert common(first, second, numbers=True) == expected
    assert common(second, first, numbers=True) == expected


def test_arrays_are_lists() -> None:
    assert normal(pl.Array(pl.Int64, 3)) == pl.List(pl.Int64)
    assert normal(pl.Array(pl.Categorical(), 3)) == pl.List(pl.String)
    assert is_list(pl.Array(pl.Int64, 3))
    assert inner(pl.Array(pl.Int64, 3)) == pl.Int64()
    assert is_list(inner(pl.Array(pl.Int64, (2, 3))))
