"""Metrics of a run on labelled rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from recmtl._progress import Bar, Progress, no_progress
from recmtl.batch import Batch
from recmtl.data import batches_in_order, check_columns, open_log
from recmtl.data.values import as_values
from recmtl.errors import DataError
from recmtl.models import outcome_metrics
from recmtl.scoring.frames import column_names, is_rows, to_polars
from recmtl.scoring.scorer import BatchScorer

__all__ = ["Outcomes", "evaluate", "gather_outcomes"]


def evaluate(
    run: str | Path, data: Any, *, by: str | None = None, progress: Progress = no_progress
) -> dict[str, Any]:
    """Metrics of each task on its own population, and per value of the segment columns.

    Args:
        run: the folder of a run.
        data: a path (file, folder or glob), a polars or pandas frame, a pyarrow table, a dict of
            arrays, or an iterable of Batches (which carry no groups and no segments).
        by: column whose values become segments (default: the spec's `data.segments`).
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        ``{"rows": n, "tasks": {task: {metric: value}}, "segments": {column: {value: {task:
        {...}}}}}``; a metric that is not defined on its rows is None.

    Raises:
        DataError: a column is missing or does not fit, or a label is neither 0 nor 1.
        CheckpointError: the run is corrupt.
    """
    scorer = BatchScorer(run, keep=())
    config = scorer.run.config
    if by is not None:
        section = config.data.model_copy(update={"segments": (by,)})
        config = config.model_copy(update={"data": section})
    segments = config.data.segments
    wanted = [column for column in (config.data.group_by, *segments) if column is not None]
    if isinstance(data, str | Path):
        log = open_log(data, columns=scorer.encoders.wanted(labels=True, keep=wanted))
        check_columns(log, config, labels=True)
        _require(wanted, list(log.schema), str(data))
        aside = log.lazy(list(dict.fromkeys(wanted))).collect() if wanted else pl.DataFrame()
        batches: Iterable[Batch] = batches_in_order(
            log, scorer.encoders, batch_size=65_536, labels=True
        )
        total = log.num_rows
    elif is_rows(data):
        needed = [*scorer.encoders.columns(labels=True), *wanted]
        _require(needed, column_names(data), "data")
        frame = to_polars(data, needed)
        aside = frame.select(list(dict.fromkeys(wanted)))
        batches, total = [scorer.encoders.encode(frame, labels=True)], frame.height
    else:
        batches, aside, segments, total = data, pl.DataFrame(), (), 0
    aside = pl.DataFrame([as_values(column) for column in aside])
    with progress("evaluate", total, "rows") as bar:
        outcomes = gather_outcomes(scorer, batches, bar)
    group = config.data.group_by if aside.width else None
    return outcome_metrics(
        scorer.tasks,
        *outcomes,
        groups=None if group is None else aside[group],
        segments={column: aside[column] for column in segments},
    )


class Outcomes(NamedTuple):
    """What the model said of some rows, and what was seen."""

    logits_BH: Tensor
    labels_BK: Tensor
    weight_B: Tensor


def gather_outcomes(scorer: BatchScorer, batches: Iterable[Batch], bar: Bar) -> Outcomes:
    """The outcomes of all batches, one below the other, without padded rows.

    Raises:
        DataError: there is no batch, or something that is none.
    """
    parts = []
    for batch in batches:
        if not isinstance(batch, Batch):
            raise DataError(
                f"data: holds a {type(batch).__name__}, expected Batches. Pass one path, frame "
                "or table, a dict of arrays, or an iterable of Batches."
            )
        is_real_B = batch.rows_B >= 0
        real = batch if bool(is_real_B.all()) else batch.select(torch.nonzero(is_real_B)[:, 0])
        parts.append(Outcomes(scorer.logits(real), real.labels_BK, real.weight_B))
        bar.advance(len(real))
    if not parts:
        raise DataError("data: holds no batch.")
    return Outcomes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _require(wanted: list[str], columns: list[str], where: str) -> None:
    missing = [column for column in dict.fromkeys(wanted) if column not in columns]
    if missing:
        raise DataError(
            f"{where}: columns {', '.join(f'`{c}`' for c in missing)} are missing; they are needed "
            "for features, labels,"
            f" groups or segments. The data has {', '.join(f'`{c}`' for c in columns)}."
        )
