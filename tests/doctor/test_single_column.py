"""AUC of one column alone, against loops over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from recmtl.doctor import single_column
from recmtl.doctor.single_column import (
    Halves,
    ItemColumn,
    ValueColumn,
    VectorColumn,
    _codes,
    column_views,
)


def halves(labels: Any, seed: int = 3) -> Halves:
    labels_N = np.asarray(labels, dtype=np.float64)
    part = np.random.default_rng(seed).integers(0, 3, len(labels_N))
    return Halves(labels_N, part == 0, part == 1)  # the rest is not observed


def means_by_loop(keys: list[Any], rows: Halves) -> list[float]:
    """Mean label of each row's key where it is fitted, drawn to the base rate by one row."""
    base = float(rows.labels_N[rows.fit_N].mean())
    found = []
    for key in keys:
        same = [rows.labels_N[n] for n in range(len(keys)) if rows.fit_N[n] and keys[n] == key]
        found.append((sum(same) + base) / (len(same) + 1))
    return found


def reference(scores: list[float], rows: Halves) -> float:
    return float(roc_auc_score(rows.labels_N[rows.test_N], np.array(scores)[rows.test_N]))


def test_values_are_judged_by_their_mean_labels() -> None:
    rng = np.random.default_rng(0)
    keys = [None if k == 4 else "abcd"[k] for k in rng.integers(0, 5, 300)]
    rows = halves([float(rng.random() < (0.8 if k in ("a", None) else 0.3)) for k in keys])
    (found,) = ValueColumn(pl.Series(keys)).aucs(rows)
    assert found == pytest.approx(reference(means_by_loop(keys, rows), rows), abs=1e-12)


def test_numbers_are_judged_by_their_ranks_both_ways_and_by_bins() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=1000).round(3)
    numbers[::50] = np.nan
    rows = halves(rng.random(1000) < 1 / (1 + np.exp(3 * np.nan_to_num(numbers, nan=-9.0))))
    values, ranks, bins = ValueColumn(pl.Series(numbers)).aucs(rows)
    lowest = np.nan_to_num(numbers, nan=-np.inf)
    assert ranks == pytest.approx(reference(list(-np.clip(lowest, -99, 99)), rows), abs=1e-12)
    keys = [None if np.isnan(x) else float(x) for x in numbers]
    assert values == pytest.approx(reference(means_by_loop(keys, rows), rows), abs=1e-12)
    order = np.sort(lowest[rows.fit_N])
    middle = [(np.sum(order < x) + np.sum(order <= x)) / 2 for x in lowest]
    keys = [min(int(256 * m / len(order)), 255) for m in middle]
    assert bins == pytest.approx(reference(means_by_loop(keys, rows), rows), abs=0.02)


def test_lists_are_judged_by_their_items() -> None:
    rng = np.random.default_rng(2)
    lists = [rng.integers(0, 8, rng.integers(0, 4)).tolist() for _ in range(300)]
    lists[5], lists[6] = None, [None, 3]
    rows = halves([float(rng.random() < (0.8 if 3 in (items or []) else 0.2)) for items in lists])
    base = float(rows.labels_N[rows.fit_N].mean())
    flat = [(n, item) for n, items in enumerate(lists) for item in items or []]
    seen = {
        key: [rows.labels_N[n] for n, item in flat if item == key and rows.fit_N[n]]
        for key in {item for _, item in flat}
    }
    mean_of = {key: (sum(same) + base) / (len(same) + 1) for key, same in seen.items()}
    expected = [
        reference([how([mean_of[i] for i in items]) if items else base for items in lists], rows)
        for how in (np.mean, max, min)
    ]
    column = pl.Series(lists, dtype=pl.List(pl.Int64))
    assert list(ItemColumn(column).aucs(rows)) == pytest.approx(expected, abs=1e-12)


def test_long_lists_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmtl.doctor.single_column._MAX_ITEMS", 100)
    view = ItemColumn(pl.Series([[1, 2]] * 300))
    assert 60 < len(view.codes_M) < 140
    assert view.rows_M.tolist() == np.repeat(np.flatnonzero(view.kept_N), 2).tolist()
    assert max(view.aucs(halves(np.arange(300) % 2))) == 0.5


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([1, 2]), [ValueColumn]),
        (pl.Series([[1], [2]]), [ItemColumn, ValueColumn]),
        (pl.Series([[1], [2]], dtype=pl.Array(pl.Int64, 1)), [ItemColumn, ValueColumn]),
    ],
)
def test_lists_have_items_and_lengths(column: pl.Series, expected: list[type]) -> None:
    assert [type(view) for view in column_views(column)] == expected


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([None] * 90, dtype=pl.Null),
        pl.Series([None] * 90, dtype=pl.Float64),
        pl.Series([[]] * 90, dtype=pl.List(pl.Int64)),
        pl.Series([None] * 90, dtype=pl.List(pl.String)),
        pl.Series([True, None, False] * 30),
        pl.Series([2**63 - 1, -(2**63), 0] * 30),
        pl.Series([float("inf"), float("-inf"), float("nan")] * 30),
    ],
)
def test_odd_columns_have_an_auc(column: pl.Series) -> None:
    rows = halves(np.arange(90) % 2)
    found = [value for view in column_views(column) for value in view.aucs(rows)]
    assert all(0.0 <= value <= 1.0 for value in found)


@pytest.mark.parametrize("dtype", [pl.Int16, pl.Int64, pl.UInt16, pl.UInt64])
@pytest.mark.parametrize("step", [1, 14])
def test_values_are_numbered_in_their_order(dtype: Any, step: int) -> None:
    """Of integers that lie close together (a span below 8 for each row) without sorting."""
    keys = np.random.default_rng(0).integers(0, 9, 20)
    lowest = 4 * step if dtype.is_signed_integer() else 0
    values = [None if k == 5 else int(k) * step - lowest for k in keys]
    order = sorted({v for v in values if v is not None})
    expected = [0 if v is None else 1 + order.index(v) for v in values]
    assert _codes(pl.Series(values, dtype=dtype)).tolist() == expected
    far = pl.Series([*values, 1000], dtype=dtype)
    assert _codes(far).tolist() == [*expected, 1 + len(order)]


@pytest.mark.parametrize("dim", [3, 200])
def test_vectors_are_judged_by_a_ridge_regression(dim: int) -> None:
    rng = np.random.default_rng(4)
    value_ND = rng.normal(2.0, 3.0, size=(400, dim)).astype(np.float32)
    value_ND[:, 1] = 7.0  # no spread
    rows = halves(rng.random(400) < 1 / (1 + np.exp(2 - value_ND[:, 0])))
    scaled_ND = StandardScaler().fit_transform(value_ND.astype(np.float64))
    model = Ridge(alpha=1e-3 * rows.fit_N.sum(), fit_intercept=False)
    labels_N = rows.labels_N - rows.labels_N[rows.fit_N].mean()
    model.fit(scaled_ND[rows.fit_N], labels_N[rows.fit_N])
    (found,) = VectorColumn(value_ND).aucs(rows)
    expected = reference(model.predict(scaled_ND).tolist(), rows)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found > 0.6


def test_of_wide_vectors_a_part_of_the_rows_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_column, "_MAX_COMPONENTS", 2000)
    rng = np.random.default_rng(4)
    value_ND = rng.normal(size=(4000, 5)).astype(np.float32)
    column = VectorColumn(value_ND)
    assert 300 < column.kept_N.sum() < 500
    (found,) = column.aucs(halves(value_ND[:, 0] > 0))
    assert found > 0.95
    none = np.zeros(4000, np.bool_)
    assert list(column.aucs(Halves(np.zeros(4000), none, ~none))) == []
