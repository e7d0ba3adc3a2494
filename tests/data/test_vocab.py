from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.vocab import VocabCounter, Vocabulary, as_int64
from recmtl.errors import DataError
from tests.data import plain_encoding as plain

IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-20, 20)


def fitted(values: list[object], min_count: int = 1, pieces: int = 1) -> Vocabulary:
    dtype = pl.String if any(isinstance(v, str) for v in values) else pl.Int64
    counter = VocabCounter(min_count)
    series = pl.Series("x", values, dtype=dtype)
    size = max(-(-len(values) // pieces), 1)
    for start in range(0, max(len(values), 1), size):
        counter.add(series.slice(start, size))
    return counter.finish()


@given(st.lists(st.none() | IDS, max_size=40), st.integers(1, 3), st.integers(1, 4))
def test_rows_follow_count_then_value(
    values: list[int | None], min_count: int, pieces: int
) -> None:
    expected = plain.vocabulary([[v] for v in values], min_count)
    vocab = fitted(values, min_count, pieces)
    assert dict(zip(vocab.ids.to_list(), range(1, vocab.rows), strict=True)) == expected
    probes = [*values, 0, 1, 2**63 - 1, -(2**63), None]
    looked_up = vocab.lookup(pl.Series(probes, dtype=pl.Int64))
    assert looked_up.tolist() == [expected.get(v, 0) for v in probes]


@given(st.lists(st.none() | st.integers(-30, 30), max_size=40), st.integers(-(2**62), 2**62))
def test_ids_that_lie_close_together(values: list[int | None], low: int) -> None:
    shifted = [None if v is None else v + low for v in values]
    expected = plain.vocabulary([[v] for v in shifted], 1)
    vocab = fitted(shifted, pieces=2)
    assert dict(zip(vocab.ids.to_list(), range(1, vocab.rows), strict=True)) == expected
    counts = [shifted.count(v) for v in vocab.ids.to_list()]
    assert vocab.counts.to_list() == counts


@given(st.lists(st.none() | st.text(max_size=20), max_size=30))
def test_strings(values: list[str | None]) -> None:
    expected = plain.vocabulary([[v] for v in values], 1)
    vocab = fitted(values or ["x"]) if values else fitted(["x"], 2)
    if not any(isinstance(v, str) for v in values):
        assert vocab.rows == 1
        return
    probes = [*values, "", "unseen", None]
    assert vocab.lookup(pl.Series(probes, dtype=pl.String)).tolist() == [
        expected.get(v, 0) for v in probes
    ]


@pytest.mark.parametrize("spread", [1, 2**40, 2**56 + 1])
def test_large_vocabularies_dense_and_sparse(spread: int) -> None:
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**6), 2**6 if spread > 2**50 else 2**16, 100_000)) * spread
    vocab = Vocabulary(pl.Series(ids), pl.Series(np.ones(len(ids), np.int64)))
    order = rng.permutation(len(ids))
    assert vocab.lookup(pl.Series(ids[order])).tolist() == (order + 1).tolist()
    assert not vocab.lookup(pl.Series(ids + (1 if spread > 1 else 2**20))).any()


def test_large_ids_survive_pitfall_T36() -> None:
    ids = [2**24, 2**24 + 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63 - 2]
    vocab = fitted(ids)
    assert sorted(vocab.lookup(pl.Series(ids)).tolist()) == [1, 2, 3, 4, 5, 6]
    assert vocab.lookup(pl.Series([2**24 + 2, 2**53 + 2])).tolist() == [0, 0]


def test_unsigned_ids_that_fit() -> None:
    assert as_int64(pl.Series([2**63 - 1, None], dtype=pl.UInt64)).to_list() == [2**63 - 1, None]
    assert as_int64(pl.Series([True, None, False])).to_list() == [1, None, 0]
    with pytest.raises(DataError, match="column `u`: 1 values do not fit into Int64"):
        as_int64(pl.Series("u", [2**63], dtype=pl.UInt64))


def test_counting_merges_as_it_goes() -> None:
    counter = VocabCounter(1)
    for start in range(0, 1_500_000, 500_000):
        counter.add(pl.Series(np.arange(start, start + 500_000) % 700_000))
    assert counter.num_ids == 700_000
    assert counter.num_bytes < 20_000_000
    vocab = counter.finish()
    assert vocab.counts.sum() == 1_500_000
