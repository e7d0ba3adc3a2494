"""Logits and labels of many rows -> metrics of every task, each on its own population.

Shape letters: B rows, H logits, K label columns, T tasks, O columns of what is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recmtl.data.codes import Aside, read_aside
from recmtl.errors import RecMTLError
from recmtl.metrics.by_segment import MetricsBySegment, metrics_by_segment
from recmtl.metrics.population import Population, Rows, float32_codes
from recmtl.metrics.spool import BLOCK_ROWS, Spool, SpoolColumn
from recmtl.tasks import TaskSet

__all__ = ["OutcomeMetrics", "Outcomes", "outcome_metrics"]

_NOTHING = Aside(None, {})
_UNSEEN = -1


class _TaskColumns(NamedTuple):
    """Where the outcomes of a task are kept."""

    predictions: SpoolColumn
    """float32 log-odds, logits of classes, or numbers."""
    targets: SpoolColumn
    """Class numbers, -1 where the task is not observed; or numbers, NaN there."""


class OutcomeMetrics(NamedTuple):
    """Metrics of all tasks."""

    table: dict[str, Any]
    """As `outcome_metrics` gives it."""
    by_task: dict[str, MetricsBySegment]


class Outcomes:
    """What the model said of many rows, and what was seen, within a number of bytes.

    Rows are kept as columns, a task's apart from another's, on disk where they are too many. The
    numbers do not depend on how rows came in or how much memory there is.

    Args:
        tasks: populations and outputs, on the CPU.
        aside: groups and segments, by the numbers of the rows.
        memory: bytes to use, None for as many as it takes.
    """

    def __init__(
        self, tasks: TaskSet, aside: Aside = _NOTHING, *, memory: int | None = None
    ) -> None:
        """Start with no row."""
        self.tasks = tasks
        self.num_rows = 0
        self._aside = aside
        self._memory = memory
        self._spool = Spool(None if memory is None else memory // 16)
        self._kinds = {task.name: task.kind for task in tasks.tasks}
        self._columns = {task.name: self._columns_of(task.name) for task in tasks.tasks}
        self._weights: SpoolColumn | None = None
        self._groups = None if aside.groups is None else self._spool.column(np.uint32)
        self._segments = {name: self._spool.column(np.uint32) for name in aside.segments}
        self._label_of = {
            task.name: (tasks.labels.index(task.label), tasks.labels.index(task.given))
            for task in tasks.tasks
            if task.given is not None and task.kind == "binary"
        }
        self.contradictions = dict.fromkeys(self._label_of, 0)
        """Rows whose label is 1 although the condition of the task is 0, by task."""

    def _columns_of(self, name: str) -> _TaskColumns:
        where = self.tasks.columns[name]
        is_multiclass = self._kinds[name] == "multiclass"
        width = where.stop - where.start if is_multiclass else None
        target = {"binary": np.int8, "multiclass": np.int32, "regression": np.float32}
        return _TaskColumns(
            self._spool.column(np.float32, width), self._spool.column(target[self._kinds[name]])
        )

    def add(
        self,
        logits_BH: Tensor,
        labels_BK: Tensor,
        weight_B: Tensor,
        rows_B: Tensor | None = None,
    ) -> None:
        """Take rows in.

        Args:
            logits_BH: what the network said.
            labels_BK: label columns, NaN where null.
            weight_B: sample weights; a row of weight 0 counts nowhere.
            rows_B: numbers of the rows, for their groups and segments; default: those that follow.
        """
        for start in range(0, len(weight_B), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            numbers = np.arange(self.num_rows, self.num_rows + len(weight_B[part]))
            if rows_B is not None:
                numbers = rows_B[part].cpu().numpy()
            self._add(
                logits_BH[part].detach().cpu(),
                labels_BK[part].cpu(),
                weight_B[part].cpu(),
                numbers,
            )

    def _add(
        self, logits_BH: Tensor, labels_BK: Tensor, weight_B: Tensor, numbers: NDArray[np.int64]
    ) -> None:
        odds_BO = self.tasks.log_odds(logits_BH).float().numpy()
        target_BT = self.tasks.targets(labels_BK).numpy()
        observed_BT = self.tasks.observed(labels_BK, weight_B).numpy()
        for t, (name, (predictions, targets)) in enumerate(self._columns.items()):
            where = self.tasks.columns[name]
            is_wrong = ~np.isfinite(odds_BO[observed_BT[:, t], where]).all(axis=1)
            if is_wrong.any():
                raise RecMTLError(
                    f"task `{name}`: the model's predictions are not finite numbers, in"
                    f" {int(is_wrong.sum()):,} of {len(numbers):,} rows. Train again with a lower"
                    " `train.lr` or `train.embedding.lr`, or with `train.clip`."
                )
            is_wide = self._kinds[name] == "multiclass"
            predictions.append(odds_BO[:, where if is_wide else where.start])
            unseen = np.nan if self._kinds[name] == "regression" else _UNSEEN
            targets.append(np.where(observed_BT[:, t], target_BT[:, t], unseen))
        labels = labels_BK.numpy()
        for name, (label, given) in self._label_of.items():
            wrong = (labels[:, label] == 1) & (labels[:, given] == 0)
            self.contradictions[name] += int(wrong.sum())
        self._add_weights(weight_B.numpy())
        if self._groups is not None and self._aside.groups is not None:
            self._groups.append(self._aside.groups.read(numbers))
        for name, column in self._segments.items():
            column.append(self._aside.segments[name].read(numbers))
        self.num_rows += len(numbers)

    def _add_weights(self, weight_B: NDArray[np.float32]) -> None:
        """Weights are kept once one is neither 0 nor 1: rows of weight 0 are observed nowhere."""
        if self._weights is None and (weight_B[weight_B != 0] != 1).any():
            self._weights = self._spool.column(np.float32)
            for start in range(0, self.num_rows, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, self.num_rows - start)
                self._weights.append(np.ones(rows, np.float32))
        if self._weights is not None:
            self._weights.append(weight_B)

    def metrics(self, *, most_values: int | None = None) -> OutcomeMetrics:
        """Metrics of each task, over all rows and per value of the segment columns.

        Args:
            most_values: segment columns of more values are left out.
        """
        shown = [
            name
            for name, column in self._aside.segments.items()
            if most_values is None or column.num_codes <= most_values
        ]
        by_task = {name: metrics_by_segment(self.population(name, shown)) for name in self._columns}
        segments = {
            column: {
                value: {name: found.columns[c][v] for name, found in by_task.items()}
                for v, value in enumerate(self._aside.segments[column].names)
            }
            for c, column in enumerate(shown)
        }
        table = {
            "rows": self.num_rows,
            "tasks": {name: found.whole for name, found in by_task.items()},
            "segments": segments,
            "contradictions": dict(self.contradictions),
        }
        return OutcomeMetrics(table, by_task)

    def population(self, name: str, segments: Sequence[str] = ()) -> Population:
        """The rows where a task is observed, beside the columns `segments`."""
        kind = self._kinds[name]
        groups = self._aside.groups if kind == "binary" else None

        def blocks() -> Iterator[Rows]:
            for start in range(0, self.num_rows, BLOCK_ROWS):
                yield self._read(name, segments, start, min(start + BLOCK_ROWS, self.num_rows))

        return Population(
            kind=kind,
            blocks=blocks,
            num_rows=self.num_rows,
            classes=self.tasks.columns[name].stop - self.tasks.columns[name].start,
            is_weighted=self._weights is not None,
            logits=kind != "regression",
            num_groups=0 if groups is None else groups.num_codes,
            segments=tuple(self._aside.segments[column].num_codes for column in segments),
            memory=None if self._memory is None else self._memory // 4,
        )

    def _read(self, name: str, segments: Sequence[str], start: int, stop: int) -> Rows:
        predictions, targets = self._columns[name]
        target_N = targets.read(start, stop)
        is_number = self._kinds[name] == "regression"
        seen = ~np.isnan(target_N) if is_number else target_N >= 0
        rows = slice(None) if seen.all() else np.flatnonzero(seen)

        def of(column: SpoolColumn) -> NDArray[Any]:
            found: NDArray[Any] = column.read(start, stop)[rows]
            return found

        prediction_N = of(predictions)
        is_binary = self._kinds[name] == "binary"
        return Rows(
            prediction_N,
            target_N[rows],
            None if self._weights is None else of(self._weights),
            float32_codes(prediction_N) if is_binary else None,
            of(self._groups) if is_binary and self._groups is not None else None,
            tuple(of(self._segments[column]) for column in segments),
        )


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
        ``{"rows": n, "tasks": {task: {metric: value}}, "segments": {column: {value: tasks}},
        "contradictions": {task: rows}}``; a metric that its rows do not define is None, and
        contradictions are rows whose label is 1 although the condition of the task is 0: they count
        in no metric of that task.
    """
    given: dict[str, ArrayLike] = {f"segment {n}": v for n, v in (segments or {}).items()}
    if groups is not None:
        given["group"] = groups
    frame = pl.DataFrame([_series(name, values) for name, values in given.items()])
    names = {f"segment {name}": name for name in segments or {}}
    aside = read_aside(frame, None if groups is None else "group", list(names), memory=None)
    outcomes = Outcomes(
        tasks, Aside(aside.groups, {names[n]: c for n, c in aside.segments.items()})
    )
    outcomes.add(logits_BH, labels_BK, weight_B)
    return outcomes.metrics().table


def _series(name: str, values: ArrayLike) -> pl.Series:
    if isinstance(values, pl.Series):
        return values.alias(name)
    array = np.asarray(values)
    return pl.Series(name, array.tolist() if array.dtype == object else array)
