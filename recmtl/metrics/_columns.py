"""Checked columns of predictions, labels and weights. Shape letters: N rows, C classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Columns", "Floats", "columns"]

Floats = NDArray[np.float64]


class Columns(NamedTuple):
    """Predictions, labels and weights of the rows that count: those whose weight is above 0."""

    predictions: NDArray[np.floating[Any]]
    """In the dtype they came in, so that a clip can depend on it; [N, C] of a multiclass task."""
    labels: NDArray[Any]
    weights: Floats | None
    """None if all rows count alike: sums are then counts, and exact."""
    kept: NDArray[np.bool_] | None
    """Which of the rows given are kept, None if all are."""


def columns(
    predictions: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None,
    *,
    binary: bool = True,
    probs: bool = False,
) -> Columns:
    """Check the columns of a metric and drop the rows of weight 0.

    Args:
        predictions: scores, logits, probabilities or numbers; finite.
        labels: outcomes; finite.
        weights: sample weights of at least 0.
        binary: whether labels must be 0 or 1.
        probs: whether predictions must lie in [0, 1].

    Raises:
        ValueError: a column of another length, a NaN or inf, a value out of its range.
    """
    prediction_N = np.asarray(predictions)
    if prediction_N.dtype.kind != "f" or prediction_N.dtype.itemsize < 4:
        prediction_N = prediction_N.astype(np.float64)
    label_N = np.asarray(labels, dtype=np.float64)
    weight_N = None if weights is None else np.asarray(weights, dtype=np.float64)
    shape = (prediction_N.size,)
    for name, column_N in (
        ("predictions", prediction_N),
        ("labels", label_N),
        ("weights", weight_N),
    ):
        if column_N is not None and column_N.shape != shape:
            raise ValueError(
                f"`{name}` must be one column with a value for each prediction: expected shape "
                f"{shape}, got {column_N.shape}."
            )
    kept = None
    if weight_N is not None:
        good_N = np.isfinite(weight_N) & (weight_N >= 0)
        _require(good_N, weight_N, "weights", "finite numbers of at least 0")
        if not weight_N.all():
            kept = weight_N > 0
            prediction_N, label_N, weight_N = prediction_N[kept], label_N[kept], weight_N[kept]
    if probs:
        _require((prediction_N >= 0) & (prediction_N <= 1), prediction_N, "probs", "in [0, 1]")
    else:
        _require(np.isfinite(prediction_N), prediction_N, "predictions", "finite numbers")
    if binary:
        _require((label_N == 0) | (label_N == 1), label_N, "labels", "0 or 1")
    else:
        _require(np.isfinite(label_N), label_N, "labels", "finite numbers")
    return Columns(prediction_N, label_N, weight_N, kept)


def _require(good_N: NDArray[np.bool_], column_N: NDArray[Any], name: str, wanted: str) -> None:
    if not good_N.all():
        row = int(np.argmin(good_N))
        count = int(good_N.size - good_N.sum())
        raise ValueError(
            f"`{name}` must be {wanted}, got {column_N[row]} in row {row} ({count} such rows)."
        )
