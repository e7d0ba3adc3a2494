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
        (pl.Int8(), pl.Boolean(), None),
        (pl.Int8(), pl.List(pl.Int8()), None),
        (pl.List(pl.Int8()), pl.List(pl.String()), None),
        (pl.Datetime("us"), pl.Datetime("ms"), None),
    ],
)
def test_common(first: pl.DataType, second: pl.DataType, expected: pl.DataType | None) -> None:
    assert common(first, second) == expected
    assert common(second, first) == expected


def test_arrays_are_lists() -> None:
    assert normal(pl.Array(pl.Int64, 3)) == pl.List(pl.Int64)
    assert normal(pl.Array(pl.Categorical(), 3)) == pl.List(pl.String)
    assert is_list(pl.Array(pl.Int64, 3))
    assert inner(pl.Array(pl.Int64, 3)) == pl.Int64()
    assert is_list(inner(pl.Array(pl.Int64, (2, 3))))
