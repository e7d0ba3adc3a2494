"""Two runs on the same rows: each reads the columns that it was trained on, labels are read once.

Shape letters: B rows, K label columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl.analysis.rows import fitting_rows, read_sample, spread_rows
from recmtl.batch import Batch
from recmtl.config import RunConfig
from recmtl.data import Log, batches_in_order, open_log
from recmtl.data.codes import Aside, read_aside
from recmtl.data.columns import column_problems
from recmtl.data.frames import column_names, is_rows, to_polars
from recmtl.data.labels import label_problems, read_labels, read_weight
from recmtl.data.problems import raise_all
from recmtl.data.wanted import wanted_columns
from recmtl.errors import DataError, SpecError
from recmtl.scoring import BatchScorer
from recmtl.spec import Task

__all__ = ["JudgedBatch", "SameRows", "Tasks", "tasks_of"]

_BATCH_ROWS = 4096
_MOST_BATCH_ROWS = 65_536

Scorers = tuple[BatchScorer, BatchScorer]
_Rows = Log | pl.DataFrame


class Tasks(NamedTuple):
    """What two runs have in common."""

    compared: tuple[Task, ...]
    """As the first run has them."""
    apart: dict[str, str]
    """Every other task, and why it is not compared."""


def tasks_of(scorers: Scorers) -> Tasks:
    """Tasks of one name, label and population in both runs, and all others.

    Raises:
        SpecError: none can be compared.
    """
    first, second = ({t.name: t for t in s.run.config.tasks} for s in scorers)
    paths = [scorer.run.path for scorer in scorers]
    compared: list[Task] = []
    apart: dict[str, str] = {}
    for name in dict.fromkeys([*first, *second]):
        if name not in second or name not in first:
            apart[name] = f"only {paths[0] if name in first else paths[1]} has it"
            continue
        ours, theirs = first[name], second[name]
        differ = [
            f"`{key}` is {getattr(ours, key)} and {getattr(theirs, key)}"
            for key in ("kind", "label", "given", "classes")
            if getattr(ours, key) != getattr(theirs, key)
        ]
        if differ:
            apart[name] = ", ".join(differ)
        else:
            compared.append(ours)
    if not compared:
        words = "; ".join(f"`{name}`: {why}" for name, why in apart.items())
        raise SpecError(f"{paths[0]} and {paths[1]}: no task can be compared. {words}.")
    return Tasks(tuple(compared), apart)


class JudgedBatch(NamedTuple):
    """The same rows as either run reads them, and what came."""

    first: Batch
    second: Batch
    labels_BK: tuple[Tensor, Tensor]
    """Label columns of either run, NaN where none of the compared tasks needs them."""
    weight_B: Tensor
    """Of the first run's spec."""


@dataclass(frozen=True)
class SameRows:
    """Labelled rows, opened for two runs.

    Attributes:
        scorers: the runs.
        judge: the first run's spec, cut down to what is read of labels, groups and segments.
        features: the rows as either run reads them.
        labels: the rows with labels, groups and segments.
        name: what they are called in messages.
    """

    scorers: Scorers
    judge: RunConfig
    features: tuple[_Rows, _Rows]
    labels: _Rows
    name: str

    @classmethod
    def open(
        cls,
        scorers: Scorers,
        data: Any,
        tasks: Sequence[Task],
        *,
        group: str | None,
        segments: Sequence[str],
    ) -> SameRows:
        """Open rows and require every column that is needed.

        Args:
            scorers: the runs.
            data: a path (file, folder or glob), a polars or pandas frame, a pyarrow table, or a
                dict of arrays.
            tasks: those whose labels are read.
            group: column of groups.
            segments: columns of segments.

        Raises:
            DataError: columns are missing or of a type that cannot be used; all at once.
        """
        config = scorers[0].run.config
        section = config.data.model_copy(
            update={"valid": None, "group_by": group, "segments": tuple(segments)}
        )
        judge = config.model_copy(update={"features": (), "tasks": tuple(tasks), "data": section})
        wanted = wanted_columns(judge, labels=True)
        if isinstance(data, str | Path):
            labels = open_log(data, columns=wanted)
            first, second = (
                open_log(data, columns=scorer.encoders.wanted(labels=False)) for scorer in scorers
            )
            opened = cls(scorers, judge, (first, second), labels, str(data))
        elif is_rows(data):
            columns = [c for scorer in scorers for c in scorer.encoders.columns(labels=False)]
            kept = [c for c in (*columns, *wanted) if c in column_names(data)]
            frame = to_polars(data, kept)
            opened = cls(scorers, judge, (frame, frame), frame, "data")
        else:
            raise DataError(
                f"data: is a {type(data).__name__}; expected a path, a frame, a table or a dict of"
                " arrays."
            )
        opened._check()
        return opened

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.labels.num_rows if isinstance(self.labels, Log) else self.labels.height

    @property
    def fingerprint(self) -> str | None:
        """sha256 of the files; None of rows in memory."""
        return self.labels.fingerprint if isinstance(self.labels, Log) else None

    def aside(self) -> Aside:
        """Groups and segments."""
        section = self.judge.data
        return read_aside(
            self.labels, section.group_by, section.segments, memory=section.memory_bytes
        )

    def batches(self) -> Iterator[JudgedBatch]:
        """All rows, in order, in batches that are a small part of the budget."""
        fewest = min(scorer.encoders.piece_rows for scorer in self.scorers)
        size = max(min(fewest, _MOST_BATCH_ROWS) // _BATCH_ROWS * _BATCH_ROWS, _BATCH_ROWS)
        first, second = (
            batches_in_order(rows, scorer.encoders, batch_size=size, labels=False)
            for rows, scorer in zip(self.features, self.scorers, strict=True)
        )
        start = 0
        for one, other in zip(first, second, strict=True):
            columns, weight_B = self._read_labels(start, start + len(one))
            yield JudgedBatch(one, other, (self._of(0, columns), self._of(1, columns)), weight_B)
            start += len(one)

    def sample(self, most: int) -> tuple[Batch, Batch]:
        """At most `most` rows, spread over all, without labels."""
        fitting = min(most, *(fitting_rows(scorer.encoders) for scorer in self.scorers))
        first, second = (
            read_sample(rows, scorer.encoders, fitting, labels=False)
            if isinstance(rows, Log)
            else scorer.encoders.encode(rows[spread_rows(rows.height, fitting)], labels=False)
            for rows, scorer in zip(self.features, self.scorers, strict=True)
        )
        return first, second

    def _read_labels(self, start: int, stop: int) -> tuple[dict[str, NDArray[Any]], Tensor]:
        """Label columns and weights of some rows."""
        columns = [*self.judge.labels]
        columns += [] if self.judge.data.weight is None else [self.judge.data.weight]
        if isinstance(self.labels, Log):
            frame = self.labels.read(list(dict.fromkeys(columns)), start, stop)
        else:
            frame = self.labels.slice(start, stop - start)
        labels_KB = read_labels(self.judge, frame)
        weight_B, problems = read_weight(self.judge, frame)
        try:
            raise_all([*label_problems(self.judge, frame, labels_KB), *problems])
        except DataError as error:
            raise error.at(f"{self.name}, rows {start} to {stop - 1}") from error
        found = dict(zip(self.judge.labels, labels_KB.astype(np.float32), strict=True))
        return found, torch.from_numpy(weight_B.astype(np.float32))

    def _of(self, which: int, columns: dict[str, NDArray[Any]]) -> Tensor:
        """The label columns of a run, `[B, K]`."""
        rows = len(next(iter(columns.values())))
        unknown = np.full(rows, np.nan, np.float32)
        names = self.scorers[which].tasks.labels
        return torch.from_numpy(np.stack([columns.get(name, unknown) for name in names], axis=1))

    def _check(self) -> None:
        problems: list[str] = []
        for rows, scorer in zip(self.features, self.scorers, strict=True):
            problems += _problems(rows, self.name, scorer.run.config, labels=False)
        problems += _problems(self.labels, self.name, self.judge, labels=True)
        if problems:
            raise DataError.all_of(list(dict.fromkeys(problems)))


def _problems(rows: _Rows, name: str, config: RunConfig, *, labels: bool) -> list[str]:
    if isinstance(rows, Log):
        return column_problems(rows.name, rows.schema, config, labels=labels, why=rows.why_missing)
    return column_problems(name, rows.schema, config, labels=labels)
