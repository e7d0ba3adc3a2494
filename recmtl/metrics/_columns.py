"""Checked columns, and the tie table that AUC, calibration error and curves are read from.

Shape letters: N rows, V distinct values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Columns",
    "Floats",
    "TieTable",
    "class_sums",
    "columns",
    "probs_of",
    "run_starts",
    "tie_table",
]

Floats = NDArray[np.float64]


class Columns(NamedTuple):
    """Predictions, labels and weights of the rows that count: those whose weight is above 0."""

    predictions: NDArray[np.floating[Any]]
    """In the dtype they came in, so that a clip can depend on it."""
    labels: Floats
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


def probs_of(logit_N: NDArray[np.floating[Any]]) -> Floats:
    """Probabilities in float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -logit_N.astype(np.float64)))


class TieTable(NamedTuple):
    """What a ranking is made of: the distinct values, ascending, and what stands at each."""

    values_V: NDArray[np.floating[Any]]
    positives_V: NDArray[Any]
    """Weight of the positive rows (a count, int64, without weights)."""
    negatives_V: NDArray[Any]
    """Weight of the negative rows (a count, int64, without weights)."""
    order_N: NDArray[np.intp]
    """Rows in ascending order of their values."""


def tie_table(rows: Columns) -> TieTable:
    """Sort once; rows with equal predictions become one entry. At least one row."""
    order_N = np.argsort(rows.predictions, kind="stable")
    sorted_N = rows.predictions[order_N]
    starts_V = run_starts(sorted_N[1:] != sorted_N[:-1])
    positives_V, negatives_V = class_sums(rows, order_N, starts_V)
    return TieTable(sorted_N[starts_V], positives_V, negatives_V, order_N)


def run_starts(changes: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Where runs of equal rows start; `changes` has an entry for each row but the first."""
    return np.flatnonzero(np.concatenate([[True], changes]))


def class_sums(
    rows: Columns, order_N: NDArray[np.intp], starts_V: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weight of positives and negatives in each run of the ordered rows; else their counts."""
    positive_N = rows.labels[order_N] == 1
    if rows.weights is None:
        sizes_V = np.diff(starts_V, append=len(order_N))
        positives_V = np.add.reduceat(positive_N, starts_V, dtype=np.int64)
        return positives_V, sizes_V - positives_V
    weight_N = rows.weights[order_N]
    return (
        np.add.reduceat(np.where(positive_N, weight_N, 0.0), starts_V),
        np.add.reduceat(np.where(positive_N, 0.0, weight_N), starts_V),
    )
