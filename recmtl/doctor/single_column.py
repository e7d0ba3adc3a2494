"""How well one column alone ranks the rows of a task: fitted on some rows, judged on others.

Shape letters: N rows, C distinct values of a column, M items of a list column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.metrics import auc

__all__ = ["Halves", "ItemColumn", "ValueColumn", "column_views"]

_BINS = 256
_MAX_ITEMS = 1_000_000

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Halves(NamedTuple):
    """A task's rows: one part to fit on, another one to judge on."""

    labels_N: Floats
    """0 or 1; anything where neither mask is true."""
    fit_N: Mask
    test_N: Mask


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
        total_C = self._counts(halves.fit_N)
        positive_C = self._counts(halves.fit_N, halves.labels_N)
        base = positive_C.sum() / total_C.sum()
        test_C = self._counts(halves.test_N)
        outcome_C = np.stack([self._counts(halves.test_N, halves.labels_N), test_C])
        outcome_C[1] -= outcome_C[0]
        yield _auc_of_values(_drawn_means(positive_C, total_C, base), outcome_C)
        if not self.is_ordered:
            return
        rising = _auc_of_values(np.arange(self.num_codes, dtype=np.float64), outcome_C)
        yield max(rising, 1.0 - rising)
        middle_C = np.cumsum(total_C) - total_C / 2
        bin_C = np.minimum(_BINS * middle_C / total_C.sum(), _BINS - 1).astype(np.int64)
        positives, totals = (_sums(bin_C, counts_C, _BINS) for counts_C in (positive_C, total_C))
        means = _drawn_means(positives, totals, base)
        yield _auc_of_values(means[bin_C], outcome_C)

    def _counts(self, rows_N: Mask, weights_N: Floats | None = None) -> Floats:
        weights = None if weights_N is None else weights_N[rows_N]
        return _sums(self.codes_N[rows_N], weights, self.num_codes)


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
    return column.rank("dense").fill_null(0).to_numpy().astype(np.int64)


def _sums(codes: Ints, weights: Floats | None, num_codes: int) -> Floats:
    """Sum of the weights at each code; counts without weights."""
    return np.bincount(codes, weights, num_codes).astype(np.float64)


def _drawn_means(positives: Floats, totals: Floats, base: float) -> Floats:
    """Mean labels, drawn to the base rate by one row; what was never seen is the base rate."""
    means: Floats = (positives + base) / (totals + 1.0)
    return means


def _auc_of_values(scores_C: Floats, outcome_C: Floats) -> float:
    """AUC of rows that are counted by value: `outcome_C` holds positives, then negatives.

    Rows are counted already, so this takes a fifth of the time of `auc` on them.
    """
    order_C = np.argsort(scores_C, kind="stable")
    is_new_C = np.diff(scores_C[order_C], prepend=-np.inf) > 0
    positive_V, negative_V = np.add.reduceat(
        outcome_C[:, order_C], np.flatnonzero(is_new_C), axis=1
    )
    below_V = np.cumsum(negative_V) - negative_V / 2
    pairs = positive_V.sum() * negative_V.sum()
    return float(positive_V @ below_V / pairs) if pairs else 0.0
