"""Checked columns, and the rows of a task's population, block by block.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recmtl.metrics.spool import BLOCK_ROWS

__all__ = [
    "Codes",
    "Columns",
    "Floats",
    "Kind",
    "Population",
    "Rows",
    "blocks_of",
    "columns",
    "float32_codes",
    "float32_values",
    "population_of",
]

Floats = NDArray[np.float64]
Codes = NDArray[np.uint32]
Kind = Literal["binary", "regression", "multiclass"]


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


class Rows(NamedTuple):
    """Some rows of a population; all of a weight above 0."""

    predictions: NDArray[np.floating[Any]]
    """[N], or [N, C] of a multiclass task."""
    labels: NDArray[Any]
    weights: NDArray[np.floating[Any]] | None
    """None if all rows of the population count alike."""
    order: Codes | None = None
    """Numbers that are ordered and equal as the predictions of a binary task are."""
    groups: Codes | None = None
    segments: tuple[Codes, ...] = ()
    """Number of the value in each segment column."""


def float32_codes(score_N: NDArray[np.float32]) -> Codes:
    """Unsigned integers in the order of the scores; 0.0 and -0.0 are equal.

    Example:
        >>> codes = float32_codes(np.float32([-2.0, -0.0, 0.0, 1e-45, 3.0]))
        >>> np.diff(codes.astype(np.int64)).tolist(), float32_values(codes).tolist()
        ([1073741825, 0, 1, 1077936127], [-2.0, 0.0, 0.0, 1.401298464324817e-45, 3.0])
    """
    bit_N = (score_N + np.float32(0)).view(np.uint32)
    # Negative floats count downwards: all their bits turn. Positive ones go above them.
    mask_N = (bit_N.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return bit_N ^ mask_N


def float32_values(code_N: Codes) -> Floats:
    """The scores of `float32_codes`, in float64."""
    mask_N = ((code_N ^ np.uint32(0x80000000)).view(np.int32) >> 31).view(np.uint32)
    return (code_N ^ (mask_N | np.uint32(0x80000000))).view(np.float32).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Population:
    """The rows where a task is observed, to be read again and again in blocks."""

    kind: Kind
    blocks: Callable[[], Iterator[Rows]]
    """Reads them; the same blocks each time."""
    num_rows: int
    """At most so many rows."""
    classes: int = 0
    """Of a multiclass task."""
    is_weighted: bool = False
    logits: bool = False
    """Whether predictions are logits; probabilities otherwise."""
    num_groups: int = 0
    """Groups are numbered below it; 0 without groups."""
    segments: tuple[int, ...] = ()
    """How many values each segment column has."""
    scores: Callable[[Codes], Floats] = float32_values
    """From `Rows.order` back to predictions."""
    memory: int | None = None
    """Bytes to sort in."""


def blocks_of(
    rows: Columns,
    order: Codes | None = None,
    groups: Codes | None = None,
    segments: Codes | None = None,
) -> Iterator[Rows]:
    """Checked columns in memory, and codes beside them, block by block."""
    for start in range(0, len(rows.labels), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        yield Rows(
            rows.predictions[part],
            rows.labels[part],
            None if rows.weights is None else rows.weights[part],
            None if order is None else order[part],
            None if groups is None else groups[part],
            () if segments is None else (segments[part],),
        )


def population_of(
    rows: Columns,
    *,
    kind: Kind = "binary",
    logits: bool = False,
    groups: Codes | None = None,
    segments: Codes | None = None,
    num_segments: int = 0,
) -> Population:
    """The population of checked columns in memory; codes stand beside the rows that are kept."""
    order_N, scores = None, float32_values
    if kind == "binary" and rows.predictions.dtype == np.float32:
        order_N = float32_codes(rows.predictions)
    elif kind == "binary":
        values_V, rank_N = np.unique(rows.predictions, return_inverse=True)
        order_N = rank_N.astype(np.uint32)

        def scores(code_N: Codes) -> Floats:
            score_N: Floats = values_V[code_N].astype(np.float64)
            return score_N

    return Population(
        kind=kind,
        blocks=partial(blocks_of, rows, order_N, groups, segments),
        num_rows=len(rows.labels),
        is_weighted=rows.weights is not None,
        logits=logits,
        num_groups=0 if groups is None else int(groups.max(initial=0)) + 1,
        segments=() if segments is None else (num_segments,),
        classes=rows.predictions.shape[1] if rows.predictions.ndim > 1 else 0,
        scores=scores,
    )
