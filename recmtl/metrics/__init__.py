"""Metrics: columns of predictions and labels -> numbers. Pure functions, exact, numpy only."""

from __future__ import annotations

from recmtl.metrics.calibration import ece, logloss, ne, pcoc
from recmtl.metrics.curves import Histogram, Reliability, reliability_bins, score_histogram
from recmtl.metrics.multiclass import (
    ClassSums,
    ClassTable,
    accuracy,
    class_table,
    multiclass_logloss,
    multiclass_ne,
)
from recmtl.metrics.ranking import GroupedAUC, auc, gauc, group_codes
from recmtl.metrics.regression import mae, rmse
from recmtl.metrics.table import segment_metrics, task_metrics

__all__ = [
    "ClassSums",
    "ClassTable",
    "GroupedAUC",
    "Histogram",
    "Reliability",
    "accuracy",
    "auc",
    "class_table",
    "ece",
    "gauc",
    "group_codes",
    "logloss",
    "mae",
    "multiclass_logloss",
    "multiclass_ne",
    "ne",
    "pcoc",
    "reliability_bins",
    "rmse",
    "score_histogram",
    "segment_metrics",
    "task_metrics",
]
