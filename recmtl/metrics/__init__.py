"""Metrics: columns of predictions and labels -> numbers. Pure functions, exact, numpy only."""

from __future__ import annotations

from recmtl.metrics.calibration import ece, logloss, ne, pcoc
from recmtl.metrics.curves import Histogram, Reliability, reliability_bins, score_histogram
from recmtl.metrics.ranking import GroupedAUC, auc, gauc, group_codes
from recmtl.metrics.regression import mae, rmse
from recmtl.metrics.table import segment_metrics, task_metrics

__all__ = [
    "GroupedAUC",
    "Histogram",
    "Reliability",
    "auc",
    "ece",
    "gauc",
    "group_codes",
    "logloss",
    "mae",
    "ne",
    "pcoc",
    "reliability_bins",
    "rmse",
    "score_histogram",
    "segment_metrics",
    "task_metrics",
]
