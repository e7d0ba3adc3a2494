from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.dense import DenseFit, DenseScale, normalise, read_dense
from recmtl.spec import DenseFeature
from tests.data import plain_encoding as plain

NUMBERS = st.lists(st.integers(-(10**9), 10**9).map(lambda n: n / 1000), min_size=2, max_size=30)


def feature(**options: object) -> DenseFeature:
    return DenseFeature(name="x", type="dense", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("transform", ["none", "log1p", "signed_log1p"])
@given(values=st.lists(st.none() | st.floats()))
def test_fill_then_transform(transform: str, values: list[float | None]) -> None:
    if transform == "log1p":
        values = [v if v is None else abs(v) for v in values]
    filled = read_dense(feature(transform=transform, fill=2.5), pl.Series(values, dtype=pl.Float64))
    expected = [plain.transformed(v, transform, 2.5) for v in values]
    np.testing.assert_allclose(filled.values, expected, rtol=1e-12)
    assert filled.num_filled == sum(v is None or not math.isfinite(v) for v in values)
    assert not filled.problems


def test_missing_without_fill() -> None:
    filled = read_dense(feature(fill=None), pl.Series([1.0, None, float("nan"), float("inf")]))
    assert [str(p) for p in filled.problems] == [
        "column `x`: 3 values are null, NaN or infinite, and `fill` is null. Give `fill` a number."
    ]


def test_log1p_of_negatives() -> None:
    filled = read_dense(feature(transform="log1p"), pl.Series([1.0, -0.5, -3.0]))
    assert str(filled.problems[0]).startswith(
        "column `x`: 2 values are negative (for example -3), but `log1p` needs at least 0."
    )


def fit_in_pieces(values: list[float]) -> DenseFit:
    fit = DenseFit()
    for start in range(0, len(values), 7):
        fit.add(np.array(values[start : start + 7]))
    return fit


@given(NUMBERS)
def test_standard(values: list[float]) -> None:
    scale = fit_in_pieces(values).scale(feature())
    mean, std = plain.mean_and_std(values, [1.0] * len(values))
    assert scale.shift == pytest.approx(mean, rel=1e-9, abs=1e-6)
    if max(values) > min(values):
        assert scale.scale == pytest.approx(std, rel=1e-6, abs=1e-9)


@given(NUMBERS)
def test_minmax(values: list[float]) -> None:
    scale = fit_in_pieces(values).scale(feature(normalize="minmax"))
    out = np.empty(len(values), np.float32)
    normalise(scale, np.array(values), out)
    assert out.min() == 0.0
    assert out.max() == (1.0 if max(values) > min(values) else 0.0)


def test_constant_column_is_divided_by_one() -> None:
    assert fit_in_pieces([0.1] * 1000).scale(feature()) == (pytest.approx(0.1), 1.0)


def test_no_cancellation_far_from_zero() -> None:
    values = [1e9 + v for v in (0.0, 1.0, 2.0)] * 100
    assert fit_in_pieces(values).scale(feature()).scale == pytest.approx(math.sqrt(2 / 3), rel=1e-6)


def test_none_leaves_values_alone() -> None:
    assert fit_in_pieces([1.0, 5.0]).scale(feature(normalize="none")) == DenseScale()


def test_far_outside_the_training_range_stays_finite() -> None:
    out = np.empty(3, np.float32)
    normalise(DenseScale(0.0, 1e-300), np.array([1.0, -1.0, 0.0]), out)
    largest = np.finfo(np.float32).max
    assert out.tolist() == [largest, -largest, 0.0]


def test_a_divisor_next_to_zero_leaves_values_finite() -> None:
    out = np.empty(3, np.float32)
    normalise(DenseScale(0.0, 5e-324), np.array([-1.0, 0.0, 1.0]), out)
    assert out.tolist() == [-np.finfo(np.float32).max, 0.0, np.finfo(np.float32).max]
