"""Metrics of a run on labelled rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor

from recmtl._progress import Bar, Progress, no_progress
from recmtl.batch import Batch
from recmtl.data import Log, batches_in_order, check_columns, open_log
from recmtl.data.codes import Aside, read_aside
from recmtl.data.frames import column_names, is_rows, to_polars
from recmtl.errors import DataError, SpecError
from recmtl.models.outcomes import Outcomes
from recmtl.scoring.scorer import BatchScorer
from recmtl.tasks import TaskSet

__all__ = ["evaluate", "gather_outcomes", "labelled_batches"]

_FORWARD_ROWS = 4096
_MOST_ROWS = 65_536


def evaluate(
    run: str | Path,
    data: Any,
    *,
    by: str | None = None,
    sampled: bool = False,
    calibrated: bool = True,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Metrics of each task on its own population, and per value of the segment columns.

    Args:
        run: the folder of a run.
        data: a path (file, folder or glob), a polars or pandas frame, a pyarrow table, a dict of
            arrays, or an iterable of Batches (which carry no groups and no segments).
        by: column whose values become segments (default: the spec's `data.segments`).
        sampled: whether the rows were thinned as `data.sampled` of the run's spec says; each then
            counts as often as rows like it were drawn from.
        calibrated: whether tasks that the run has calibrators of are calibrated.
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        ``{"rows": n, "tasks": {task: {metric: value}}, "segments": {column: {value: {task:
        {...}}}}, "contradictions": {task: rows}}``; a metric that is not defined on its rows is
        None. Contradictions are rows whose label is 1 although the condition of the task is 0;
        they are counted there, and in no metric of that task. Memory is bounded by `data.memory`
        whatever the number of rows; held besides are the distinct values of segments, and of groups
        that are strings or integers that span more than 2^32.

    Raises:
        DataError: a column is missing or does not fit, or a label is neither 0 nor 1.
        CheckpointError: the run is corrupt.
        SpecError: the run's spec does not say how rows were thinned.
    """
    scorer = BatchScorer(run, keep=(), calibrated=calibrated)
    if sampled and not scorer.tasks.thinnings:
        raise SpecError(
            f"{run}: its spec has no `data.sampled`, so nothing says how rows were thinned. Leave "
            "`sampled` out."
        )
    encoders, section = scorer.encoders, scorer.run.config.data
    group, segments = section.group_by, section.segments if by is None else (by,)
    wanted = [column for column in (group, *segments) if column is not None]
    rows: Log | pl.DataFrame | None = None
    if isinstance(data, str | Path):
        rows = open_log(data, columns=encoders.wanted(labels=True, keep=wanted))
        config = scorer.run.config.model_copy(
            update={"data": section.model_copy(update={"segments": segments})}
        )
        check_columns(rows, config, labels=True)
        _require(wanted, list(rows.schema), str(data))
        total = rows.num_rows
    elif is_rows(data):
        needed = [*encoders.columns(labels=True), *wanted]
        _require(needed, column_names(data), "data")
        rows = to_polars(data, needed)
        total = rows.height
    batches: Iterable[Batch] = data
    aside = Aside(None, {})
    if rows is None:
        total = 0
    else:
        aside = read_aside(rows, group, segments, memory=section.memory_bytes)
        batches = labelled_batches(rows, scorer)
    outcomes = Outcomes(scorer.tasks, aside, memory=section.memory_bytes)
    with progress("evaluate", total, "rows") as bar:
        num_batches = gather_outcomes(scorer, batches, outcomes, bar, sampled=sampled)
    if rows is None and not num_batches:
        raise DataError("data: holds no batch.")
    return outcomes.metrics().table


def labelled_batches(rows: Log | pl.DataFrame, scorer: BatchScorer) -> Iterator[Batch]:
    """Rows with their labels in batches that are a small part of the budget."""
    size = min(scorer.encoders.piece_rows, _MOST_ROWS) // _FORWARD_ROWS * _FORWARD_ROWS
    return batches_in_order(rows, scorer.encoders, batch_size=max(size, _FORWARD_ROWS), labels=True)


class Speaks(Protocol):
    """What has something to say of encoded rows."""

    @property
    def tasks(self) -> TaskSet:
        """Of what."""

    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[B, H]``."""


class TakesIn(Protocol):
    """What outcomes are put into; see `Outcomes.add`."""

    def add(self, logits_BH: Tensor, labels_BK: Tensor, weight_B: Tensor, rows_B: Tensor) -> None:
        """Take rows in."""


def gather_outcomes(
    scorer: Speaks,
    batches: Iterable[Batch],
    outcomes: TakesIn,
    bar: Bar,
    *,
    sampled: bool = False,
) -> int:
    """Put what the model says of all batches into `outcomes`, without padded rows.

    Rows that were thinned as `data.sampled` says (`sampled`) speak for those that were left out.

    Returns:
        How many batches there were.

    Raises:
        DataError: one is no batch.
    """
    num_batches = 0
    for batch in batches:
        if not isinstance(batch, Batch):
            raise DataError(
                f"data: holds a {type(batch).__name__}, expected Batches. Pass one path, frame "
                "or table, a dict of arrays, or an iterable of Batches."
            )
        is_real_B = batch.rows_B >= 0
        real = batch if bool(is_real_B.all()) else batch.select(torch.nonzero(is_real_B)[:, 0])
        weight_B = real.weight_B
        if sampled:
            weight_B = scorer.tasks.weight_of_all(real.labels_BK, weight_B)
        outcomes.add(scorer.logits(real), real.labels_BK, weight_B, real.rows_B)
        bar.advance(len(real))
        num_batches += 1
    return num_batches


def _require(wanted: list[str], columns: list[str], where: str) -> None:
    missing = [column for column in dict.fromkeys(wanted) if column not in columns]
    if missing:
        raise DataError(
            f"{where}: columns {', '.join(f'`{c}`' for c in missing)} are missing; they are needed "
            "for features, labels,"
            f" groups or segments. The data has {', '.join(f'`{c}`' for c in columns)}."
        )
