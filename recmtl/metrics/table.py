"""All metrics of a task, ready for JSON."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recmtl._checks import require_one_of
from recmtl.metrics._columns import Columns, columns, probs_of, tie_table
from recmtl.metrics.calibration import ece_of, logloss_of, ne_of, pcoc_of
from recmtl.metrics.multiclass import ClassSums
from recmtl.metrics.ranking import GroupedAUC, auc_of, gauc_of
from recmtl.metrics.regression import mae_of, rmse_of

__all__ = ["Metrics", "segment_metrics", "task_metrics"]

Metrics = dict[str, float | int | None]


def task_metrics(
    kind: Literal["binary", "regression", "multiclass"],
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
    require_one_of(("binary", "regression", "multiclass"), kind=kind)
    if observed is not None:
        seen_N = np.asarray(observed, dtype=np.bool_)
        predictions = _at(seen_N, predictions, "predictions")
        labels = _at(seen_N, labels, "labels")
        weights = None if weights is None else _at(seen_N, weights, "weights")
        groups = None if groups is None else _at(seen_N, groups, "groups")
    if kind == "regression":
        rows = columns(predictions, labels, weights, binary=False)
        return {"n": len(rows.labels), "rmse": rmse_of(rows), "mae": mae_of(rows)}
    if kind == "multiclass":
        sums = ClassSums(np.shape(predictions)[-1])
        sums.add(predictions, labels, weights, logits=logits)
        return sums.metrics()
    return _binary_metrics(columns(predictions, labels, weights, probs=not logits), groups, logits)


def segment_metrics(
    kind: Literal["binary", "regression", "multiclass"],
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
    segment_N = np.asarray(segments)
    everywhere_N = np.ones(segment_N.shape, np.bool_)
    prediction_N = _at(everywhere_N, predictions, "predictions")
    label_N = _at(everywhere_N, labels, "labels")
    seen_N = None if observed is None else _at(everywhere_N, observed, "observed")
    weight_N = None if weights is None else _at(everywhere_N, weights, "weights")
    group_N = None if groups is None else _at(everywhere_N, groups, "groups")
    return {
        value: task_metrics(
            kind,
            prediction_N[rows],
            label_N[rows],
            observed=None if seen_N is None else seen_N[rows],
            weights=None if weight_N is None else weight_N[rows],
            groups=None if group_N is None else group_N[rows],
            logits=logits,
        )
        for value, rows in _segments(segment_N).items()
    }


def _binary_metrics(rows: Columns, groups: ArrayLike | None, logits: bool) -> Metrics:
    table = tie_table(rows) if len(rows.labels) else None
    grouped = GroupedAUC(None, 0, 0)
    if groups is not None:
        grouped = gauc_of(rows, table.order_N if table else np.empty(0, np.intp), groups)
    loss = logloss_of(rows, logits=logits)
    to_probs = probs_of if logits else _as_float64
    return {
        "n": len(rows.labels),
        "positives": int(rows.labels.sum()),
        "auc": auc_of(table) if table else None,
        "gauc": grouped.value,
        "gauc_groups": grouped.groups,
        "gauc_undefined_groups": grouped.undefined_groups,
        "logloss": loss,
        "ne": ne_of(rows, loss),
        "pcoc": pcoc_of(rows, to_probs(rows.predictions)),
        "ece": ece_of(table, to_probs(table.values_V)) if table else None,
    }


def _as_float64(prob_N: NDArray[Any]) -> NDArray[np.float64]:
    return prob_N.astype(np.float64)


def _at(mask_N: NDArray[np.bool_], column: ArrayLike, name: str) -> NDArray[Any]:
    """The rows of a column, or of several side by side, where the mask is true."""
    column_N = np.asarray(column)
    if column_N.shape[:1] != mask_N.shape or (column_N.ndim > 1 and name != "predictions"):
        raise ValueError(
            f"`{name}` must be one column with a value for each row: expected shape "
            f"{mask_N.shape}, got {column_N.shape}."
        )
    return column_N[mask_N]


def _segments(segment_N: NDArray[Any]) -> dict[str, NDArray[np.intp]]:
    """Rows of each value, missing ones last."""
    missing_N = segment_N != segment_N
    if segment_N.dtype == object:
        missing_N |= np.array([value is None for value in segment_N], dtype=np.bool_)
    known = np.flatnonzero(~missing_N)
    values, code = np.unique(segment_N[known], return_inverse=True)
    rows = np.split(known[np.argsort(code, kind="stable")], np.cumsum(np.bincount(code))[:-1])
    found = {str(value): row for value, row in zip(values.tolist(), rows, strict=False)}
    if not missing_N.any():
        return found
    found = {'"null"' if value == "null" else value: row for value, row in found.items()}
    return found | {"null": np.flatnonzero(missing_N)}
