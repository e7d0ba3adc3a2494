"""How well one column alone ranks the rows of a task: fitted on some rows, judged on others.

Shape letters: N rows, C distinct values of a column, M items of a list column, V groups of values,
D components of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.metrics import auc

__all__ = ["Halves", "ItemColumn", "ValueColumn", "VectorColumn", "column_views"]

_BINS = 256
_MAX_ITEMS = 1_000_000
_MAX_COMPONENTS = 1 << 23
_RIDGE = 1e-3
_RARE = 64

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Halves:
    """A task's rows: one part to fit on, another one to judge on.

    Attributes:
        labels_N: 0 or 1; anything where neither mask is true.
        fit_N: rows to fit on.
        test_N: rows to judge on.
    """

    labels_N: Floats
    fit_N: Mask
    test_N: Mask

    def classes(self, part_N: Mask) -> tuple[int, int]:
        """Positives and negatives of a part."""
        positives = int(self.labels_N[part_N].sum())
        return positives, int(part_N.sum()) - positives

    @cached_property
    def kinds_N(self) -> Ints:
        """0 and 1 for the labels of what is fitted on, 2 and 3 of what is judged, 4 for neither."""
        kinds_N = np.where(self.labels_N == 1.0, 1, 0) + np.where(self.test_N, 2, 0)
        return np.where(self.fit_N | self.test_N, kinds_N, 4)


class ValueColumn:
    """A column with one value a row; null and NaN are a value of their own.

    Args:
        column: numbers, booleans or strings.

    Example:
        >>> labels = np.array([0.0, 1.0] * 4)
        >>> halves = Halves(labels, np.arange(8) < 4, np.arange(8) >= 4)
        >>> max(ValueColumn(pl.Series(["a", "b"] * 4)).aucs(halves))
        1.0
    """

    def __init__(self, column: pl.Series) -> None:
        """Number the values."""
        self.is_ordered = not isinstance(column.dtype, pl.String)
        self.codes_N = _codes(column)
        self.num_codes = int(self.codes_N.max(initial=0)) + 1

    def aucs(self, halves: Halves) -> Iterator[float]:
        """AUC on the judged rows of what is fitted on the others.

        The mean label of each value; for numbers also of each of 256 quantile bins, and the ranks,
        rising and falling.
        """
        kinds_CK = np.bincount(self.codes_N * 5 + halves.kinds_N, minlength=5 * self.num_codes)
        negative_C, positive_C, *outcome_C = kinds_CK.reshape(-1, 5)[:, :4].T.astype(np.float64)
        total_C = negative_C + positive_C
        base = positive_C.sum() / total_C.sum()
        yield _auc_of_means(positive_C, total_C, base, *outcome_C)
        if not self.is_ordered:
            return
        rising = _auc_of_groups(*outcome_C)
        yield max(rising, 1.0 - rising)
        middle_C = np.cumsum(total_C) - total_C / 2
        bin_C = np.minimum(_BINS * middle_C / total_C.sum(), _BINS - 1).astype(np.int64)
        positives, totals, *outcomes = (
            _sums(bin_C, counts_C, _BINS) for counts_C in (positive_C, total_C, *outcome_C)
        )
        yield _auc_of_values(_drawn_means(positives, totals, base), *outcomes)


class ItemColumn:
    """A list column: each row is judged by the mean labels of its items.

    Where lists are long, a random part of the rows is looked at: about a million items.

    Args:
        column: lists of numbers or strings.
    """

    def __init__(self, column: pl.Series) -> None:
        """Number the items."""
        lengths = column.list.len().fill_null(0).to_numpy().astype(np.int64)
        share = _MAX_ITEMS / max(int(lengths.sum()), 1)
        self.kept_N = np.random.default_rng(1).random(len(column)) < share
        self.lengths_N = np.where(self.kept_N, lengths, 0)
        items = column.filter(pl.Series(self.lengths_N > 0)).explode()
        self.codes_M = _codes(items)
        self.rows_M = np.repeat(np.arange(len(column)), self.lengths_N)

    def aucs(self, halves: Halves) -> Iterator[float]:
        """AUC on the judged rows of the mean, largest and smallest of the items' mean labels."""
        test_N = halves.test_N & self.kept_N
        labels = halves.labels_N[test_N]
        if not len(self.codes_M) or labels.min(initial=1.0) == labels.max(initial=0.0):
            return
        base = float(halves.labels_N[halves.fit_N].mean())
        fit_M = halves.fit_N[self.rows_M]
        num_codes = int(self.codes_M.max()) + 1
        total_C = _sums(self.codes_M[fit_M], None, num_codes)
        positive_C = _sums(self.codes_M[fit_M], halves.labels_N[self.rows_M][fit_M], num_codes)
        means_M = _drawn_means(positive_C, total_C, base)[self.codes_M]
        filled_N = self.lengths_N > 0
        starts = (np.cumsum(self.lengths_N) - self.lengths_N)[filled_N]
        for reduce in (np.add, np.maximum, np.minimum):
            scores_N = np.full(len(filled_N), base)
            scores_N[filled_N] = reduce.reduceat(means_M, starts)
            if reduce is np.add:
                scores_N[filled_N] /= self.lengths_N[filled_N]
            yield auc(scores_N[test_N], labels) or 0.0


class VectorColumn:
    """A column of vectors: each row is judged by the linear function that fits the labels best.

    Where vectors are wide, a random part of the rows is looked at: about eight million components.

    Args:
        value_ND: finite numbers.
    """

    def __init__(self, value_ND: NDArray[np.floating[Any]]) -> None:
        """Keep some rows."""
        share = _MAX_COMPONENTS / max(value_ND.size, 1)
        self.kept_N = np.random.default_rng(1).random(len(value_ND)) < share
        kept = value_ND[self.kept_N].astype(np.float64)
        spread = kept.std(axis=0)
        self.scaled = (kept - kept.mean(axis=0)) / np.where(spread > 0, spread, 1.0)

    def aucs(self, halves: Halves) -> Iterator[float]:
        """AUC on the judged rows of a ridge regression on the others."""
        fit, test = halves.fit_N[self.kept_N], halves.test_N[self.kept_N]
        labels = halves.labels_N[self.kept_N]
        if not fit.any() or labels[test].min(initial=1.0) == labels[test].max(initial=0.0):
            return
        x, y = self.scaled[fit], labels[fit] - labels[fit].mean()
        penalty = _RIDGE * len(x)
        if len(x) < x.shape[1]:
            weight_D = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y)
        else:
            weight_D = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        yield auc(self.scaled[test] @ weight_D, labels[test]) or 0.0


def column_views(column: pl.Series) -> list[ValueColumn | ItemColumn]:
    """The ways to look at a column: its values, or its items and the lengths of its lists."""
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        return [ItemColumn(column), ValueColumn(column.list.len())]
    return [ValueColumn(column)]


def _codes(column: pl.Series) -> Ints:
    """0 for null and NaN, then 1, 2, ... in the order of the values."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
    elif isinstance(column.dtype, pl.Boolean | pl.Null):
        column = column.cast(pl.Int8)
    if column.dtype.is_integer() and column.dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        low, high = column.min(), column.max()
        if isinstance(low, int) and isinstance(high, int) and high - low < 8 * len(column):
            return _codes_near(column.cast(pl.Int64), low, high - low + 1)
    return column.rank("dense").fill_null(0).to_numpy().astype(np.int64)


def _codes_near(column: pl.Series, low: int, span: int) -> Ints:
    """Codes of integers that lie close together, without sorting."""
    offsets_N = (column - low).fill_null(span).to_numpy()
    is_there = np.zeros(span + 1, np.int64)
    is_there[offsets_N] = 1
    codes = np.cumsum(is_there)
    codes[span] = 0  # null
    codes_N: Ints = codes[offsets_N]
    return codes_N


def _sums(codes: Ints, weights: Floats | None, num_codes: int) -> Floats:
    """Sum of the weights at each code; counts without weights."""
    return np.bincount(codes, weights, num_codes).astype(np.float64)


def _drawn_means(positives: Floats, totals: Floats, base: float) -> Floats:
    """Mean labels, drawn to the base rate by one row; what was never seen is the base rate."""
    means: Floats = (positives + base) / (totals + 1.0)
    return means


def _auc_of_means(positive_C: Floats, total_C: Floats, base: float, *outcome_C: Floats) -> float:
    """AUC of the mean labels of values.

    Most values are rare and many have the same mean: those are grouped before anything is sorted.
    """
    is_rare_C = total_C < _RARE
    kind_C = (total_C * _RARE + positive_C)[is_rare_C].astype(np.int64)
    totals, positives = np.divmod(np.arange(_RARE * _RARE, dtype=np.float64), _RARE)
    counts_C = (positive_C, total_C, *outcome_C)
    grouped = [positives, totals, *(_sums(kind_C, o[is_rare_C], _RARE**2) for o in outcome_C)]
    both = [
        np.concatenate([group, each_C[~is_rare_C]])
        for group, each_C in zip(grouped, counts_C, strict=True)
    ]
    return _auc_of_values(_drawn_means(both[0], both[1], base), *both[2:])


def _auc_of_values(scores_C: Floats, negative_C: Floats, positive_C: Floats) -> float:
    """AUC of rows that are counted by value; equal scores are one group."""
    order_C = np.argsort(scores_C)
    starts_V = np.flatnonzero(np.diff(scores_C[order_C], prepend=-np.inf) > 0)
    return _auc_of_groups(
        np.add.reduceat(negative_C[order_C], starts_V),
        np.add.reduceat(positive_C[order_C], starts_V),
    )


def _auc_of_groups(negative_V: Floats, positive_V: Floats) -> float:
    """AUC of rows that are counted by group, the groups in the order of their scores."""
    below_V = np.cumsum(negative_V) - negative_V / 2
    pairs = positive_V.sum() * negative_V.sum()
    return float(positive_V @ below_V / pairs) if pairs else 0.0
