from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.selection import kth_largest

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), min_size=1, max_size=30)
FLOATS = st.lists(
    st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0]), min_size=1, max_size=30
)


@given(numbers=INTEGERS, pieces=st.integers(1, 4), data=st.data())
def test_integers(numbers: list[int], pieces: int, data: st.DataObject) -> None:
    check(np.array(numbers, np.int64), pieces, data.draw(st.integers(1, len(numbers))))


@given(numbers=FLOATS, pieces=st.integers(1, 4), data=st.data())
def test_floats(numbers: list[float], pieces: int, data: st.DataObject) -> None:
    check(np.array(numbers), pieces, data.draw(st.integers(1, len(numbers))))


@pytest.mark.parametrize("dtype", [np.uint64, np.int8, np.float32, np.bool_])
def test_other_types(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 2**62, 99).astype(dtype)
    for k in (1, 50, 99):
        check(values, 3, k)


def check(values: np.ndarray[Any, Any], pieces: int, k: int) -> None:
    found = kth_largest(lambda: np.array_split(values, pieces), k)
    assert found == np.sort(values)[::-1][k - 1]
    assert found.dtype == values.dtype
