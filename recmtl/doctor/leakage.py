"""Columns that give a label away: one column alone predicts a task almost perfectly."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data import Log
from recmtl.doctor.findings import Finding
from recmtl.metrics import auc
from recmtl.spec import DenseFeature, Spec, Task

__all__ = ["find_leaks"]

ERROR_AUC = 0.999
WARNING_AUC = 0.97
SAMPLE_ROWS = 200_000
_CHUNKS = 20
_MIN_OF_EACH_CLASS = 10
_BINS = 256


def find_leaks(log: Log, spec: Spec) -> list[Finding]:
    """Findings on every feature that alone reaches AUC .999 (error) or .97 (warning) for a task.

    The means of the label per category (per quantile bin of a number; ranks as well), or the
    average of its items' means for a list, are fitted on one half of up to 200,000 training rows
    and judged on the other half.
    """
    tasks = [task for task in spec.tasks if task.product_of is None and task.kind == "binary"]
    columns = dict.fromkeys([*(f.name for f in spec.features), *spec.labels])
    frame = sample(log, list(columns))
    fit_N = np.random.default_rng(0).permutation(frame.height) % 2 == 0
    findings = []
    for task in tasks:
        labels_N, seen_N = _population(frame, task)
        if not _enough(labels_N, seen_N & fit_N) or not _enough(labels_N, seen_N & ~fit_N):
            continue
        for feature in spec.features:
            column = frame[feature.name]
            reached = _auc_of(
                column,
                labels_N,
                seen_N & fit_N,
                seen_N & ~fit_N,
                dense=isinstance(feature, DenseFeature),
            )
            if reached >= WARNING_AUC:
                findings.append(_finding(spec, feature.name, task, reached))
    return findings


def sample(log: Log, columns: list[str]) -> pl.DataFrame:
    """Up to 200,000 rows in evenly spaced stretches of the log."""
    if log.num_rows <= SAMPLE_ROWS:
        return log.read(columns, 0, log.num_rows)
    rows = SAMPLE_ROWS // _CHUNKS
    starts = [k * (log.num_rows - rows) // (_CHUNKS - 1) for k in range(_CHUNKS)]
    return pl.concat([log.read(columns, start, start + rows) for start in starts])


def _population(frame: pl.DataFrame, task: Task) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    label = frame[task.label].cast(pl.Float64)
    seen = label.is_in([0.0, 1.0]).fill_null(value=False)  # any other label is an error elsewhere
    if task.given is not None:
        seen &= frame[task.given].cast(pl.Float64).fill_null(0.0) == 1.0
    return label.fill_nan(None).fill_null(0.0).to_numpy(), seen.to_numpy()


def _enough(labels_N: NDArray[np.float64], rows_N: NDArray[np.bool_]) -> bool:
    positives, rows = int(labels_N[rows_N].sum()), int(rows_N.sum())
    return min(positives, rows - positives) >= _MIN_OF_EACH_CLASS


def _auc_of(
    column: pl.Series,
    labels_N: NDArray[np.float64],
    fit_N: NDArray[np.bool_],
    test_N: NDArray[np.bool_],
    *,
    dense: bool,
) -> float:
    """The best AUC on the test rows that the column alone reaches."""
    test_labels = labels_N[test_N]
    reached = []
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if isinstance(column.dtype, pl.List):
        rows = pl.DataFrame({"row": np.arange(len(column)), "key": column})
        items = rows.explode("key")
        means = _category_means(items["key"], labels_N[items["row"]], fit_N[items["row"]])
        scores = items.select("row", score=means).group_by("row").agg(pl.col("score").mean())
        joined = rows.join(scores, on="row", how="left", maintain_order="left")
        reached.append(joined["score"].fill_null(0.0).to_numpy()[test_N])
        reached.append(_category_means(column.list.len(), labels_N, fit_N)[test_N])
    else:
        if dense or column.dtype.is_float():
            numbers_N = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
            ranks_N = np.where(np.isfinite(numbers_N), numbers_N, -np.inf)
            reached += [ranks_N[test_N], -ranks_N[test_N]]
            borders = np.unique(
                np.quantile(ranks_N[fit_N], np.linspace(0, 1, _BINS + 1)[1:-1], method="nearest")
            )
            column = pl.Series(np.searchsorted(borders, ranks_N, side="right"))
        reached.append(_category_means(column, labels_N, fit_N)[test_N])
    return max(auc(scores, test_labels) or 0.0 for scores in reached)


def _category_means(
    keys: pl.Series, labels_N: NDArray[np.float64], fit_N: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean label of each row's category where `fit_N`, drawn to the base rate by one row."""
    base = float(labels_N[fit_N].mean())
    rows = pl.DataFrame({"key": keys, "label": labels_N})
    means = (
        rows.filter(fit_N)
        .group_by("key")
        .agg(mean=(pl.col("label").sum() + base) / (pl.len() + 1.0))
    )
    joined = rows.select("key").join(
        means, on="key", how="left", nulls_equal=True, maintain_order="left"
    )
    return joined["mean"].fill_null(base).to_numpy()


def _finding(spec: Spec, column: str, task: Task, reached: float) -> Finding:
    what = (
        f"alone reaches AUC {reached:.4f} for task `{task.name}` on rows that it was not fitted on."
    )
    if column in spec.data.accept_leaks:
        return Finding("info", f"column `{column}`", what, "Accepted by `data.accept_leaks`.")
    if reached < ERROR_AUC:
        return Finding(
            "warning",
            f"column `{column}`",
            what,
            "Is it known before the outcome? If not, remove it.",
        )
    advice = (
        "It is most likely written after the outcome: remove it, or say"
        f" `data.accept_leaks: [{column}]`."
    )
    return Finding("error", f"column `{column}`", what, advice, exit_code=3)
