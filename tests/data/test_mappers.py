from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.mappers import BucketMapper, HashMapper, as_ids, quantile_borders
from recmtl.errors import DataError
from tests.data import plain_encoding as plain


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)), st.integers(1, 2**40))
def test_hash_of_integers(values: list[int | None], size: int) -> None:
    rows = HashMapper(size, "int")(pl.Series("x", values, dtype=pl.Int64))
    assert rows.tolist() == [plain.hashed(v, size) for v in values]


def test_hash_of_strings_golden() -> None:
    rows = HashMapper(1_000_000, "string")(pl.Series(["", "abc", None]))
    assert rows.tolist() == [
        0x2D06800538D394C2 % 1_000_000 + 1,
        0x78AF5F94892F3950 % 1_000_000 + 1,
        0,
    ]


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.Int16, pl.UInt32, pl.UInt64, pl.Boolean])
def test_widths_do_not_matter(dtype: pl.DataType) -> None:
    narrow = pl.Series([0, 1, None]).cast(dtype)
    expected = [plain.hashed(v, 99) for v in (0, 1, None)]
    assert HashMapper(99, "int")(narrow).tolist() == expected


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["a", "b"])])
def test_categories_are_strings(dtype: pl.DataType) -> None:
    values = pl.Series(["b", None, "a"])
    assert (
        HashMapper(99, "string")(values.cast(dtype)).tolist()
        == HashMapper(99, "string")(values).tolist()
    )


@given(
    st.lists(st.none() | st.floats() | st.sampled_from([1.0, 2.0])),
    st.lists(st.floats(-5, 5) | st.sampled_from([1.0, 2.0]), unique=True),
)
def test_buckets(values: list[float | None], borders: list[float]) -> None:
    borders.sort()
    mapper = BucketMapper(np.array(borders, np.float64))
    rows = mapper(pl.Series("x", values, dtype=pl.Float64)).tolist()
    assert rows == [plain.bucket(v, borders) for v in values]
    assert all(0 <= row < mapper.rows for row in rows)


def test_buckets_of_integers_and_nothing() -> None:
    mapper = BucketMapper(np.array([2.0]))
    assert mapper(pl.Series([1, 2, None])).tolist() == [1, 2, 0]
    assert mapper(pl.Series([None, None])).tolist() == [0, 0]


def test_quantile_borders_cut_equally() -> None:
    sample = np.random.default_rng(0).permutation(np.arange(1000.0))
    borders = quantile_borders(sample, 10)
    assert borders.tolist() == [100.0 * i for i in range(1, 10)]


def test_quantile_borders_merge_duplicates() -> None:
    sample = np.array([0.0] * 90 + [1.0] * 5 + [2.0] * 5 + [np.nan] * 7)
    assert quantile_borders(sample, 20).tolist() == [1.0, 2.0]
    assert quantile_borders(np.zeros(5), 4).tolist() == []
    assert quantile_borders(np.array([np.nan]), 4).tolist() == []


@given(st.lists(st.floats(-100, 100), min_size=1), st.integers(1, 20))
def test_quantile_buckets_are_never_empty(values: list[float], num_buckets: int) -> None:
    borders = quantile_borders(np.array(values), num_buckets)
    mapper = BucketMapper(borders)
    assert len(borders) < num_buckets
    assert set(mapper(pl.Series(values)).tolist()) == set(range(1, mapper.rows))


def test_the_other_family_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"`x` is String, but it was fitted on integers\. Cast it to Int64"
    ):
        as_ids(pl.Series("x", ["a"]), "int")
    with pytest.raises(DataError, match="`x` is Int64, but it was fitted on strings"):
        as_ids(pl.Series("x", [1]), "string")
    with pytest.raises(DataError, match="`x` is Float64, but it was fitted on integers"):
        as_ids(pl.Series("x", [1.0]), "int")
    assert as_ids(pl.Series("x", [None]), "string").dtype == pl.String
