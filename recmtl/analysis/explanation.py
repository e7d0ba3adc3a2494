"""Why a row gets its prediction: what changes when one feature has other rows' values.

Shape letters: B rows of the reference, O columns of what is predicted.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl._checks import suggest
from recmtl.analysis.experts import expert_health
from recmtl.analysis.features import FeatureGroup, feature_groups, with_values_of
from recmtl.analysis.rows import NoRowsError, read_sample, spread_rows, validation_log
from recmtl.batch import Batch
from recmtl.data import Log, check_columns, open_log
from recmtl.data.frames import column_names, to_polars
from recmtl.errors import DataError, SpecError
from recmtl.scoring import BatchScorer
from recmtl.tasks import TaskSet

__all__ = ["explain"]


def explain(
    run: str | Path,
    rows: Any,
    *,
    row: int = 0,
    task: str | None = None,
    reference: Any = None,
    num_reference: int = 64,
) -> dict[str, Any]:
    """How the prediction for one row depends on each of its features, taken alone.

    Each feature is given the values that it has in a sample of reference rows, one after the other,
    while all others stay as they are; the change of the logit is averaged. It says what one feature
    does where the others are as they are in this row. These are not Shapley values: the changes of
    several features do not add up to anything.

    Args:
        run: the folder of a run.
        rows: a path (file, folder or glob), a polars or pandas frame, a pyarrow table or a dict of
            arrays; no labels needed.
        row: number of the row to explain, from 0.
        task: the task to explain (default: all of them).
        reference: rows to compare with, as `rows` are given (default: validation rows of the run,
            or where they are not to be found, of `rows`).
        num_reference: how many of them at most, evenly spread.

    Returns:
        ``row``; ``reference``, what it is compared with, in words; ``tasks``: for each task
        ``prediction`` (a probability, or a number), ``logit``, and ``features``, sorted by the size
        of the change: ``feature``, its ``value`` in the row, ``change``, how much the logit changes
        on the average of the reference rows when it has their values (below 0: the row's own value
        speaks for the outcome), and ``deviation`` of that change over them. A regression has no
        logit: what changes is the prediction. Of a multiclass task it is the log-odds of the
        likeliest ``class``. ``gates``: for each ``level`` the weights of each of its ``gates`` on
        the row, by expert.

    Raises:
        SpecError: the run has no such task, or numbers make no sense.
        DataError: there is no such row, or a column is missing or of another type.
        CheckpointError: the run is corrupt.
    """
    scorer = BatchScorer(run, keep=())
    names = _tasks(scorer.tasks, task)
    if num_reference < 1 or row < 0:
        number, at_least = ("row", row) if row < 0 else ("num_reference", num_reference), row < 0
        raise SpecError(f"{number[0]}: must be at least {0 if at_least else 1}, got {number[1]}.")
    source = _Rows(scorer, rows)
    frame = source.read(np.array([row]), f"row: {row:,} is asked for")
    others, words = _reference(scorer, source, reference, num_reference)
    own = scorer.encoders.encode(frame, labels=False)
    index_B = torch.zeros(len(others), dtype=torch.int64)
    many = own.select(index_B)
    groups = feature_groups(scorer.encoders)
    own_logits = scorer.logits(own)
    before = _said(scorer.tasks, own_logits)
    likeliest = {name: int(value[0].argmax()) for name, value in before.items()}
    every_B = torch.arange(len(others))
    after = {
        group: _said(
            scorer.tasks,
            scorer.logits(with_values_of(many, group, others, every_B, scorer.encoders)),
        )
        for group in groups
    }
    probs_O = scorer.tasks.probs(own_logits)[0]
    values = {group: _value(frame, group) for group in groups}
    numbers = {task.name for task in scorer.tasks.tasks if task.kind == "regression"}
    found: dict[str, Any] = {"row": row, "reference": words, "tasks": {}}
    for name in names:
        where, of = scorer.tasks.columns[name], likeliest[name]
        changes = [
            {
                "feature": group.name,
                "value": values[group],
                "change": float((said[name][:, of] - before[name][:, of]).mean()),
                "deviation": float(said[name][:, of].std()),
            }
            for group, said in after.items()
        ]
        found["tasks"][name] = {
            "prediction": float(probs_O[where.start + of]),
            **({} if name in numbers else {"logit": float(before[name][0, of])}),
            **({"class": of} if before[name].shape[1] > 1 else {}),
            "features": sorted(changes, key=lambda c: -abs(float(str(c["change"])))),
        }
    levels, _ = expert_health(scorer.net, own)
    found["gates"] = [
        {
            "level": level["level"],
            "gates": {
                gate: dict(zip(level["experts"], weights, strict=True))
                for gate, weights in level["gates"].items()
            }
            | level["own"],
        }
        for level in levels
    ]
    return found


class _Rows:
    """Rows in whatever form they were given, read by their numbers."""

    def __init__(self, scorer: BatchScorer, rows: Any) -> None:
        """Open them, and check the columns of features."""
        self.columns = scorer.encoders.columns(labels=False)
        self.name = str(rows) if isinstance(rows, str | Path) else "rows"
        self.log: Log | pl.DataFrame
        if isinstance(rows, str | Path):
            self.log = open_log(rows, columns=scorer.encoders.wanted(labels=False))
            check_columns(self.log, scorer.run.config, labels=False)
            scorer.require(self.log.schema.names(), f"{rows}: ")
            self.count = self.log.num_rows
        else:
            rows = rows.collect() if isinstance(rows, pl.LazyFrame) else rows
            scorer.require(column_names(rows))
            self.log = to_polars(rows, self.columns)
            self.count = self.log.height

    def read(self, numbers: NDArray[np.int64], what: str) -> pl.DataFrame:
        """Rows of rising numbers."""
        if not len(numbers) or numbers[-1] >= self.count:
            raise DataError(
                f"{self.name}: {what}, but there are {self.count:,} rows. Their numbers start at 0."
            )
        if isinstance(self.log, pl.DataFrame):
            return self.log[numbers]
        return self.log.take(self.columns, numbers)


def _reference(scorer: BatchScorer, source: _Rows, reference: Any, most: int) -> tuple[Batch, str]:
    """Rows to compare with, and what they are, in words."""
    why = ""
    if reference is None:
        try:
            valid = validation_log(scorer.run)
            batch = read_sample(valid, scorer.encoders, most, labels=False, stretches=most)
            return batch, f"{len(batch):,} validation rows"
        except NoRowsError as error:
            why = f" ({error})"
    else:
        source = _Rows(scorer, reference)
    numbers = spread_rows(source.count, most, stretches=most)
    frame = source.read(numbers, "rows to compare with are asked for")
    words = f"{len(frame):,} rows of {source.name}{why}"
    return scorer.encoders.encode(frame, labels=False), words


def _tasks(tasks: TaskSet, task: str | None) -> tuple[str, ...]:
    if task is None:
        return tasks.names
    if task not in tasks.names:
        raise SpecError(
            f"task: the run has no `{task}`.{suggest(task, tasks.names)} Its tasks are "
            f"{', '.join(f'`{name}`' for name in tasks.names)}."
        )
    return (task,)


def _said(tasks: TaskSet, logits: Tensor) -> dict[str, NDArray[np.float64]]:
    """Log-odds of each task's classes, one for a binary task; a regression's prediction."""
    odds_BO = tasks.log_odds(logits).double()
    found = {}
    for task in tasks.tasks:
        said = odds_BO[:, tasks.columns[task.name]]
        if task.kind == "multiclass":
            log_prob = said.log_softmax(dim=1)
            said = log_prob - torch.log(-torch.expm1(log_prob).clamp(max=-1e-300))
        found[task.name] = said.numpy()
    return found


def _value(frame: pl.DataFrame, group: FeatureGroup) -> Any:
    """What stands in the only row of a frame: plain numbers, texts and lists of them."""
    values = {name: _plain(frame[name].to_list()[0]) for name in group.members}
    return values if len(values) > 1 else values[group.members[0]]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
