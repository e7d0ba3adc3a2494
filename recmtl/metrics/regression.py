"""How far predicted numbers are from the outcome."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recmtl.metrics._columns import Columns, columns

__all__ = ["mae", "mae_of", "rmse", "rmse_of"]


def rmse(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Root of the mean squared error, in the unit of the label; None without rows.

    Example:
        >>> rmse([1.0, 2.0], [4.0, 6.0])
        3.5355339059327378
    """
    return rmse_of(columns(predictions, labels, weights, binary=False))


def mae(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Mean absolute error, in the unit of the label; None without rows.

    Example:
        >>> mae([1.0, 2.0], [4.0, 6.0])
        3.5
    """
    return mae_of(columns(predictions, labels, weights, binary=False))


def rmse_of(rows: Columns) -> float | None:
    """RMSE of checked columns."""
    if not len(rows.labels):
        return None
    return float(np.sqrt(np.average((rows.predictions - rows.labels) ** 2, weights=rows.weights)))


def mae_of(rows: Columns) -> float | None:
    """MAE of checked columns."""
    if not len(rows.labels):
        return None
    return float(np.average(np.abs(rows.predictions - rows.labels), weights=rows.weights))
