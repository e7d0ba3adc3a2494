"""Logits and labels of many rows -> metrics of every task, each on its own population.

Shape letters: B rows, H logits, K label columns, T tasks, O columns of what is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from torch import Tensor

from recmtl.metrics import group_codes, segment_metrics, task_metrics
from recmtl.tasks import TaskSet

__all__ = ["outcome_metrics"]


def outcome_metrics(
    tasks: TaskSet,
    logits_BH: Tensor,
    labels_BK: Tensor,
    weight_B: Tensor,
    *,
    groups: ArrayLike | None = None,
    segments: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Any]:
    """Metrics of each task, products included, over all rows and per value of the segment columns.

    Args:
        tasks: populations and outputs.
        logits_BH: what the network said.
        labels_BK: label columns, NaN where null.
        weight_B: sample weights; a row of weight 0 counts nowhere.
        groups: key of each row for GAUC.
        segments: column -> its value in each row.

    Returns:
        ``{"rows": n, "tasks": {task: {metric: value}}, "segments": {column: {value: tasks}}}``; a
        metric that its rows do not define is None.
    """
    odds_BO = tasks.log_odds(logits_BH).detach().cpu().numpy()
    target_BT = tasks.targets(labels_BK).cpu().numpy()
    observed_BT = tasks.observed(labels_BK, weight_B).cpu().numpy()
    is_weighted = bool((weight_B[weight_B > 0] != 1).any())
    weights = weight_B.cpu().numpy() if is_weighted else None
    found: dict[str, Any] = {
        "rows": len(weight_B),
        "tasks": {},
        "segments": {column: {} for column in segments or {}},
    }
    kinds = {task.name: task.kind for task in tasks.tasks}
    keys_B = None if groups is None else group_codes(_exact(groups))
    columns = {column: np.asarray(_exact(values)) for column, values in (segments or {}).items()}
    for t, name in enumerate(tasks.names):
        about: dict[str, Any] = {
            "observed": observed_BT[:, t],
            "weights": weights,
            "groups": keys_B,
            "logits": kinds[name] != "regression",
        }
        kind, columns_of = kinds[name], tasks.columns[name]
        odds = odds_BO[:, columns_of] if kind == "multiclass" else odds_BO[:, columns_of.start]
        outcome = (odds, target_BT[:, t])
        found["tasks"][name] = task_metrics(kind, *outcome, **about)
        for column, values in columns.items():
            for value, metrics in segment_metrics(kind, *outcome, values, **about).items():
                found["segments"][column].setdefault(value, {})[name] = metrics
    return found


def _exact(column: ArrayLike) -> ArrayLike:
    """The column with its values untouched: polars gives integers with nulls as floats.

    Large ids would become one and the same, and the segment 1 would be called 1.0.
    """
    if isinstance(column, pl.Series) and column.dtype.is_integer() and column.null_count():
        return np.array(column.to_list(), dtype=object)
    return column
