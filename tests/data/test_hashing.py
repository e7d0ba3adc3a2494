from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.hashing import _order as order_of
from recmtl.data.hashing import combine, permutation, splitmix64, xxh3_64
from tests.data import plain_encoding as plain


def test_splitmix64_golden_values() -> None:
    # The published reference's first outputs from states 0 and 1234567.
    assert int(splitmix64(np.array([0]))[0]) == 0xE220A8397B1DCDAF
    assert int(splitmix64(np.array([1234567]))[0]) == 6457827717110365317


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_splitmix64_is_the_formula(values: list[int]) -> None:
    expected = [plain.splitmix64(v % 2**64) for v in values]
    assert splitmix64(np.array(values, np.int64)).tolist() == expected


def test_splitmix64_over_several_blocks() -> None:
    values = np.arange(-40_000, 40_000)
    hashes = splitmix64(values)
    assert len(np.unique(hashes)) == len(values)
    for i in (0, 16_383, 16_384, 79_999):
        assert int(hashes[i]) == plain.splitmix64(int(values[i]) % 2**64)


def test_xxh3_golden_values() -> None:
    # Of the reference implementation, seed 0.
    strings = pl.Series(["", "abc", None])
    assert [hex(v) for v in xxh3_64(strings)] == ["0x2d06800538d394c2", "0x78af5f94892f3950", "0x0"]


def test_permutation_is_a_permutation_and_stable() -> None:
    order = permutation(1000, 3, 4)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() == permutation(1000, 3, 4).tolist()
    assert order.tolist() != permutation(1000, 3, 5).tolist()
    assert permutation(0, 1).tolist() == []


def test_permutation_sorts_by_the_hash_of_a_counter() -> None:
    key = combine(7, 8)
    gamma = 0x9E3779B97F4A7C15
    hashes = [plain.splitmix64((key + i * gamma) % 2**64) for i in range(50)]
    assert permutation(50, 7, 8).tolist() == sorted(range(50), key=lambda i: hashes[i])


@pytest.mark.parametrize("size", [1 << 14, (1 << 14) + 1, 70_000, 1 << 20])
def test_large_permutations_are_sorted_by_whole_hashes(size: int) -> None:
    counters = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = np.argsort(splitmix64(counters + np.uint64(combine(7))))
    assert np.array_equal(permutation(size, 7), expected)


def test_hashes_that_differ_in_few_bits_are_in_order() -> None:
    rng = np.random.default_rng(0)
    for shift in (0, 10, 20, 45):  # equal in their first bits, or in all bits that come next
        hashes = rng.permutation(40_000).astype(np.uint64) << np.uint64(shift)
        hashes[::2] |= np.uint64(1 << 63)
        assert np.array_equal(order_of(hashes), np.argsort(hashes))


def test_combine_takes_negative_numbers() -> None:
    assert len({combine(-1), combine(2**63), combine(0), combine(0, 0), combine()}) == 5
