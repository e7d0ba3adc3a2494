"""How far predicted numbers are from the outcome. Shape letters: S values of a segment column."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from recmtl.metrics._columns import columns
from recmtl.metrics.population import Codes, Rows, blocks_of

__all__ = ["ErrorSums", "mae", "rmse"]


def rmse(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Root of the mean squared error, in the unit of the label; None without rows.

    Example:
        >>> rmse([1.0, 2.0], [4.0, 6.0])
        3.5355339059327378
    """
    return _sums(predictions, labels, weights).rmse(0)


def mae(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Mean absolute error, in the unit of the label; None without rows.

    Example:
        >>> mae([1.0, 2.0], [4.0, 6.0])
        3.5
    """
    return _sums(predictions, labels, weights).mae(0)


class ErrorSums:
    """Sums of the errors of each segment value.

    Args:
        size: how many values.
    """

    def __init__(self, size: int) -> None:
        """Start with no row."""
        self.rows_S = np.zeros(size, np.int64)
        self._weight_S, self._squares_S, self._errors_S = np.zeros((3, size))

    def add(self, rows: Rows, codes: Codes | None = None) -> None:
        """Take rows in, each of the segment value that its code says; without codes, of value 0."""
        size = len(self.rows_S)
        code_N = np.zeros(len(rows.labels), np.intp) if codes is None else codes.astype(np.intp)
        error_N = np.abs(rows.predictions.astype(np.float64) - rows.labels)
        weight_N = np.ones(len(error_N)) if rows.weights is None else rows.weights
        self.rows_S += np.bincount(code_N, minlength=size)
        self._weight_S += np.bincount(code_N, weight_N, size)
        self._squares_S += np.bincount(code_N, weight_N * error_N**2, size)
        self._errors_S += np.bincount(code_N, weight_N * error_N, size)

    def rmse(self, s: int) -> float | None:
        """Root of the mean squared error; None without rows."""
        return math.sqrt(self._squares_S[s] / self._weight_S[s]) if self.rows_S[s] else None

    def mae(self, s: int) -> float | None:
        """Mean absolute error; None without rows."""
        return float(self._errors_S[s] / self._weight_S[s]) if self.rows_S[s] else None


def _sums(predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None) -> ErrorSums:
    sums = ErrorSums(1)
    for rows in blocks_of(columns(predictions, labels, weights, binary=False)):
        sums.add(rows)
    return sums
