"""All metrics of a task, ready for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recmtl._checks import require_one_of
from recmtl.metrics._columns import columns
from recmtl.metrics.by_segment import Metrics, metrics_by_segment
from recmtl.metrics.multiclass import class_columns
from recmtl.metrics.population import Codes, Kind, Population, population_of
from recmtl.metrics.ranking import numbered

__all__ = ["Metrics", "segment_metrics", "task_metrics", "with_missing"]


def task_metrics(
    kind: Kind,
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    observed: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    logits: bool = False,
) -> Metrics:
    """All metrics of a task on its population. What is not defined is None, never NaN.

    Args:
        kind: the task's kind.
        predictions: probabilities or logits of a binary task, numbers of a regression; a column
            for each class of a multiclass task.
        labels: outcomes; whatever stands where the task is not observed is ignored.
        observed: boolean, the task's population (default: all rows).
        weights: sample weights; rows of weight 0 do not count.
        groups: key of each row for GAUC; without it GAUC is None.
        logits: whether the predictions are logits (of a binary or multiclass task); logloss is then
            exact.

    Returns:
        For a binary task `n` and `positives` (numbers of rows), `auc`, `gauc`, `gauc_groups`,
        `gauc_undefined_groups`, `logloss`, `ne`, `pcoc` and `ece`; for a regression `n`, `rmse` and
        `mae`; for a multiclass task `n`, `logloss`, `ne` and `accuracy`.

    Example:
        >>> metrics = task_metrics("binary", [0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        >>> metrics["n"], metrics["positives"], metrics["auc"], metrics["gauc"]
        (4, 2, 0.75, None)
    """
    if observed is None:
        observed = np.ones(np.shape(predictions)[:1], np.bool_)
    population = _population(kind, predictions, labels, observed, weights, groups, logits=logits)
    return metrics_by_segment(population).whole


def segment_metrics(
    kind: Kind,
    predictions: ArrayLike,
    labels: ArrayLike,
    segments: ArrayLike,
    *,
    observed: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    logits: bool = False,
) -> dict[str, Metrics]:
    """`task_metrics` for each value of a column.

    Args:
        kind: the task's kind.
        predictions: probabilities or logits of a binary task, numbers of a regression; a column
            for each class of a multiclass task.
        labels: outcomes; whatever stands where the task is not observed is ignored.
        segments: the value of each row: strings, integers, booleans.
        observed: boolean, the task's population (default: all rows).
        weights: sample weights; rows of weight 0 do not count.
        groups: key of each row for GAUC.
        logits: whether the predictions are logits (of a binary or multiclass task).

    Returns:
        Segment value as text -> metrics, in order of the values; missing values come last, as
        `null` (beside them, the text "null" keeps its quotes). A segment whose rows are all
        unobserved is there too, with `n` 0.

    Example:
        >>> by_device = segment_metrics("binary", [0.1, 0.9, 0.3], [0, 1, 0], ["web", "web", "app"])
        >>> {device: metrics["n"] for device, metrics in by_device.items()}
        {'app': 1, 'web': 2}
    """
    names, code_N = _values(np.asarray(segments))
    if observed is None:
        observed = np.ones(code_N.shape, np.bool_)
    else:
        observed = _at(np.ones(code_N.shape, np.bool_), observed, "observed")
    population = _population(
        kind,
        predictions,
        labels,
        observed,
        weights,
        groups,
        logits=logits,
        segments=code_N,
        num_segments=len(names),
    )
    return dict(zip(names, metrics_by_segment(population).columns[0], strict=True))


def _population(
    kind: Kind,
    predictions: ArrayLike,
    labels: ArrayLike,
    observed: ArrayLike,
    weights: ArrayLike | None,
    groups: ArrayLike | None,
    *,
    logits: bool,
    segments: Codes | None = None,
    num_segments: int = 0,
) -> Population:
    """The rows where a task is observed, checked."""
    require_one_of(("binary", "regression", "multiclass"), kind=kind)
    seen_N = np.asarray(observed, dtype=np.bool_)
    predictions = _at(seen_N, predictions, "predictions")
    labels = _at(seen_N, labels, "labels")
    weights = None if weights is None else _at(seen_N, weights, "weights")
    if kind == "multiclass":
        rows = class_columns(predictions, labels, weights, logits=logits)
    else:
        is_binary = kind == "binary"
        probs = is_binary and not logits
        rows = columns(predictions, labels, weights, binary=is_binary, probs=probs)
    group_N = None
    if groups is not None and kind == "binary":
        group_N = numbered(rows, _at(seen_N, groups, "groups"))
    if segments is not None:
        segments = segments[seen_N]
        segments = segments if rows.kept is None else segments[rows.kept]
    return population_of(
        rows,
        kind=kind,
        logits=logits,
        groups=group_N,
        segments=segments,
        num_segments=num_segments,
    )


def _at(mask_N: NDArray[np.bool_], column: ArrayLike, name: str) -> NDArray[Any]:
    """The rows of a column, or of several side by side, where the mask is true."""
    column_N = np.asarray(column)
    if column_N.shape[:1] != mask_N.shape or (column_N.ndim > 1 and name != "predictions"):
        raise ValueError(
            f"`{name}` must be one column with a value for each row: expected shape "
            f"{mask_N.shape}, got {column_N.shape}."
        )
    return column_N[mask_N]


def _values(segment_N: NDArray[Any]) -> tuple[list[str], Codes]:
    """Each value as text, missing ones last, and its number in each row."""
    missing_N = segment_N != segment_N
    if segment_N.dtype == object:
        missing_N |= np.array([value is None for value in segment_N], dtype=np.bool_)
    values, known_M = np.unique(segment_N[~missing_N], return_inverse=True)
    names = [str(value) for value in values.tolist()]
    code_N = np.full(segment_N.shape, len(names), np.uint32)
    code_N[~missing_N] = known_M
    return with_missing(names) if missing_N.any() else names, code_N


def with_missing(names: list[str]) -> list[str]:
    """The names of values and, last, that of missing ones.

    Example:
        >>> with_missing(["app", "null"])
        ['app', '"null"', 'null']
    """
    return [*('"null"' if name == "null" else name for name in names), "null"]
