"""A server's log: the columns that it read, and the scores that it gave.

Shape letters: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl._checks import suggest
from recmtl.data import Encoders, Log, open_log
from recmtl.data.dtypes import family, inner, is_list
from recmtl.data.frames import column_names, is_rows, to_polars
from recmtl.data.wanted import Kind, Want
from recmtl.errors import DataError
from recmtl.scoring import BatchScorer

__all__ = ["ServedLog"]

_WORDS = {"int": "integers", "string": "strings", "number": "numbers"}


class ServedLog:
    """Rows as they were served, in the types that the run's encoders read.

    Ids that were logged in the other family than they were fitted on are turned into it; nothing is
    asked of a number but that it is one.

    Attributes:
        columns: task -> column of its served score.
        types: what is said of columns of other types, a sentence each.
        num_rows: number of rows.

    Args:
        scorer: the run.
        log: a path (file, folder or glob), a polars or pandas frame, a pyarrow table or a dict of
            arrays.
        prefix: of the columns of scores, before the name of the task (default: `probs_` and
            `pred_`, as in the output of `recmtl score`).

    Raises:
        DataError: columns are missing, or of a type that cannot be read.
    """

    def __init__(self, scorer: BatchScorer, log: Any, prefix: str | None) -> None:
        self.scorer = scorer
        self.encoders: Encoders = scorer.encoders
        self.name = str(log) if isinstance(log, str | Path) else "log"
        expected = scorer.columns()
        if prefix is not None:
            expected = {task: f"{prefix}{task}" for task in scorer.tasks.names}
        self._rows: Log | pl.DataFrame
        if isinstance(log, str | Path):
            wanted = self.encoders.wanted(labels=False)
            kinds = {task.name: task.kind for task in scorer.tasks.tasks}
            for task, column in expected.items():
                kind: Kind = "numbers" if kinds[task] == "multiclass" else "number"
                wanted.setdefault(column, Want(kind, f"served score of `{task}`"))
            self._rows = open_log(log, columns=wanted)
            schema: Mapping[str, pl.DataType] = self._rows.schema
            self.num_rows = self._rows.num_rows
        elif is_rows(log):
            names = column_names(log)
            needed = [*self.encoders.columns(labels=False), *expected.values()]
            self._rows = to_polars(log, [column for column in needed if column in names])
            schema = self._rows.schema
            self.num_rows = self._rows.height
        else:
            raise DataError(
                f"log: is a {type(log).__name__}; expected a path, a frame, a table or a dict of"
                " arrays."
            )
        self.columns = {task: column for task, column in expected.items() if column in schema}
        self._require(schema, expected)
        self._casts, self.types = _casts(self.encoders, schema)

    def _require(self, schema: Mapping[str, pl.DataType], expected: Mapping[str, str]) -> None:
        self.scorer.require(list(schema), f"{self.name}: ")
        if not self.columns:
            first = next(iter(expected.values()))
            raise DataError(
                f"{self.name}: no column holds served scores; expected some of "
                f"{', '.join(f'`{column}`' for column in expected.values())}."
                f"{suggest(first, schema)} Give the beginning of their names as `--scores-prefix`."
            )
        wrong = [
            f"{self.name}: column `{column}` (served score of `{task}`) is {schema[column]}, it"
            f" must be {'a list of numbers' if self._is_wide(task) else 'a number'}."
            for task, column in self.columns.items()
            if is_list(schema[column]) != self._is_wide(task)
            or family(inner(schema[column])) not in ("int", "float", "null")
        ]
        if wrong:
            raise DataError.all_of(wrong)

    def _is_wide(self, task: str) -> bool:
        where = self.scorer.tasks.columns[task]
        return bool(where.stop - where.start > 1)

    def blocks(self) -> Iterator[tuple[int, pl.DataFrame]]:
        """All rows, in order, and the number of the first one of each piece."""
        step = self.encoders.piece_rows
        names = [*self.encoders.columns(labels=False), *self.columns.values()]
        if isinstance(self._rows, Log):
            self._rows.require_room(names, self.encoders.spec.data.memory_bytes)
        for start in range(0, self.num_rows, step):
            stop = min(start + step, self.num_rows)
            if isinstance(self._rows, Log):
                frame = self._rows.read(names, start, stop)
            else:
                frame = self._rows.slice(start, stop - start)
            yield start, frame.with_columns(self._casts)

    def take(self, numbers: NDArray[np.int64]) -> pl.DataFrame:
        """Rows of rising numbers."""
        names = [*self.encoders.columns(labels=False), *self.columns.values()]
        if isinstance(self._rows, Log):
            frame = self._rows.take(names, numbers)
        else:
            frame = self._rows[numbers]
        return frame.with_columns(self._casts)

    def scores(self, frame: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
        """What was served for each task, `[B, 1]` or `[B, C]`; NaN where nothing was.

        Raises:
            DataError: a list of another length than the task has classes.
        """
        found = {}
        for task, column in self.columns.items():
            where = self.scorer.tasks.columns[task]
            width = where.stop - where.start
            values = frame[column]
            if width == 1:
                found[task] = values.cast(pl.Float64).to_numpy().reshape(-1, 1)
                continue
            lists = values.cast(pl.List(pl.Float64))
            lengths = lists.list.len().fill_null(width).to_numpy()
            if (lengths != width).any():
                other = int(lengths[lengths != width][0])
                raise DataError(
                    f"{self.name}: column `{column}` has lists of {other} numbers, but `{task}` has"
                    f" {width} classes."
                )
            score_BC = np.full((frame.height, width), np.nan)
            is_there = lists.is_not_null().to_numpy()
            flat = lists.drop_nulls().explode().to_numpy()
            score_BC[is_there] = flat.reshape(-1, width)
            found[task] = score_BC
        return found


def _casts(
    encoders: Encoders, schema: Mapping[str, pl.DataType]
) -> tuple[list[pl.Expr], list[str]]:
    """What turns columns of other types into those that were fitted, and what is said of each."""
    casts: list[pl.Expr] = []
    said: list[str] = []
    for feature in encoders.spec.looked_up:
        expected = encoders.mappers[encoders.spec.table_of(feature)].family
        dtype = schema[feature.name]
        found = family(inner(dtype))
        fits = {"int": ("int",), "string": ("string",), "number": ("int", "float")}[expected]
        if found in (*fits, "null", "other"):
            continue
        to: pl.DataType = {"int": pl.Int64(), "string": pl.String(), "number": pl.Float64()}[
            expected
        ]
        steps: Sequence[pl.DataType] = (pl.Int64(), to) if found == "float" else (to,)
        column = pl.col(feature.name)
        for step in steps:
            column = column.cast(pl.List(step) if is_list(dtype) else step, strict=False)
        casts.append(column)
        said.append(
            f"column `{feature.name}` is {dtype} in the log, but the run was fitted on"
            f" {_WORDS[expected]}: it is read as these here."
        )
    for dense in encoders.spec.dense:
        if family(schema[dense.name]) == "string":
            casts.append(pl.col(dense.name).cast(pl.Float64, strict=False))
            said.append(
                f"column `{dense.name}` is {schema[dense.name]} in the log, but the run was fitted"
                " on numbers: it is read as these here."
            )
    return casts, said
