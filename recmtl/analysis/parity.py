"""Scores that a server gave, against those of the run on the same rows: what it reads differently.

Shape letters: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recmtl._files import atomic_path, require_writable
from recmtl._progress import Progress, no_progress
from recmtl.analysis.causes import Cause, Causes, Found, Judge, ServedRows
from recmtl.analysis.served import ServedLog
from recmtl.analysis.variants import Candidate
from recmtl.data.hashing import splitmix64
from recmtl.errors import DataError, SpecError
from recmtl.metrics.sorting import Sorter
from recmtl.metrics.spool import Spool, SpoolColumn
from recmtl.scoring import BatchScorer

__all__ = ["parity"]

_SAMPLE_ROWS = 256
_ROUNDS = 6
_EXAMPLES = 5


def parity(
    run: str | Path,
    log: Any,
    *,
    scores_prefix: str | None = None,
    tolerance: float = 1e-4,
    out: str | Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Score the rows of a server's log again, and name the features that it reads differently.

    A row differs where a served score is further from the run's than `tolerance` times the run's
    score plus 1e-6 (for a regression, 1e-6 standard deviations of the label). For rows that differ,
    every feature is read in other ways: as out-of-vocabulary or null, as a default, in another
    type, without its transform, with its list cut or turned. What reproduces all served scores of a
    row within the tolerance explains it. Causes are searched on samples of at most 256 unexplained
    rows, most frequent ones first, by one feature and then by two at once, and tried on all rows
    that differ; a cause has to explain at least two rows, where more than one is left. Rows in
    which three features are at fault stay unexplained. Memory is bounded by `data.memory`.

    Args:
        run: the folder of a run.
        log: the columns of all features as they were served, and served scores: a path (file,
            folder or glob), a polars or pandas frame, a pyarrow table or a dict of arrays.
        scores_prefix: the columns of scores are called this and the task's name (default: as in the
            output of `score`).
        tolerance: largest difference, as a part of the score.
        out: Parquet file for the rows that differ, in order: ``row``, its number, and ``cause``,
            the place of what explains it in ``causes`` (null where nothing does).
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        ``rows``; ``differ``, ``explained`` and ``unexplained`` (numbers of rows); ``tasks``: for
        each logged task its ``column``, the ``rows`` that have a score, how many ``differ``, the
        ``largest`` and the ``mean`` difference; ``not_logged``: the other tasks; ``causes``, most
        rows first: ``features`` (one or two, each with ``feature``, ``cause``, one of `type`,
        `vocabulary`, `default`, `transform` and `list`, and ``words``), the ``rows`` that they
        explain, ``examples`` (row numbers and the features' values), ``also`` (other readings that
        explain the same rows of the sample) and ``contradicted``, the share of a sample of agreeing
        rows that would not agree if every row were read so (None where nothing follows from it);
        ``unexplained_examples``; ``types``: columns that were logged in another type;
        ``tolerance``.

    Raises:
        DataError: a column is missing or cannot be read.
        SpecError: the tolerance makes no sense.
        CheckpointError: the run is corrupt.
    """
    if not 0 <= tolerance < 1:
        raise SpecError(f"tolerance: must be at least 0 and below 1, got {tolerance!r}.")
    if out is not None:
        require_writable(Path(out).parent)
    scorer = BatchScorer(run, keep=())
    served = ServedLog(scorer, log, scores_prefix)
    search = _Search(scorer, served, tolerance)
    with progress("score", served.num_rows, "rows") as bar:
        for start, frame in served.blocks():
            search.compare(start, frame)
            bar.advance(frame.height)
    search.explain(progress)
    if out is not None:
        search.write(Path(out))
    return search.result()


@dataclass
class _Compared:
    """A task's served scores against the run's."""

    rows: int = 0
    differ: int = 0
    largest: float = 0.0
    total: float = 0.0


@dataclass
class _Explained:
    """What a cause explains."""

    numbers: SpoolColumn
    examples: list[dict[str, Any]] = field(default_factory=list)


class _Sample:
    """The numbers of at most so many rows, chosen by a hash."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.numbers = np.empty(0, np.int64)

    def add(self, numbers: NDArray[np.int64]) -> None:
        """Take numbers in."""
        joined = np.concatenate([self.numbers, numbers])
        self.numbers = np.sort(joined[np.argsort(splitmix64(joined))[: self.most]])


class _Search:
    """What is known of a log so far."""

    def __init__(self, scorer: BatchScorer, served: ServedLog, tolerance: float) -> None:
        self.scorer, self.served = scorer, served
        self.judge = Judge(scorer, tuple(served.columns), tolerance)
        self.tasks = {task: _Compared() for task in served.columns}
        self.memory = scorer.run.config.data.memory_bytes
        self.spool = Spool(self.memory // 16)
        self.unexplained = self.spool.column(np.int64)
        self.agreeing = _Sample(_SAMPLE_ROWS)
        self.differ = 0
        self.found: list[tuple[Found, _Explained]] = []

    def compare(self, start: int, frame: pl.DataFrame) -> None:
        """Score rows of the log, and keep the numbers of those that differ."""
        rows = self._rows(frame, f"rows {start} to {start + frame.height - 1}")
        said = self.judge.said(rows.batch)
        differs_B = np.zeros(frame.height, np.bool_)
        has_score_B = np.zeros(frame.height, np.bool_)
        for task, compared in self.tasks.items():
            there_B = ~np.isnan(rows.served[task]).all(axis=1)
            gap_B = np.abs(rows.served[task] - said[task]).max(axis=1)
            wrong_B = there_B & ~self.judge.agrees(task, said[task], rows.served[task])
            known = gap_B[there_B & np.isfinite(gap_B)]
            compared.rows += int(there_B.sum())
            compared.differ += int(wrong_B.sum())
            compared.largest = max(compared.largest, float(known.max(initial=0.0)))
            compared.total += float(known.sum())
            differs_B |= wrong_B
            has_score_B |= there_B
        self.differ += int(differs_B.sum())
        self.unexplained.append(start + np.flatnonzero(differs_B))
        self.agreeing.add(start + np.flatnonzero(has_score_B & ~differs_B))

    def explain(self, progress: Progress) -> None:
        """Search for causes and try them on all rows that differ, until nothing is found."""
        if not self.differ:
            return
        numbers = self.agreeing.numbers
        causes = Causes(self.judge, self._take(numbers) if len(numbers) else None)
        with progress("explain", self.differ, "rows") as bar:
            for _ in range(_ROUNDS):
                before = len(self.unexplained)
                sample = _Sample(_SAMPLE_ROWS)
                for numbers in self.unexplained.blocks():
                    sample.add(numbers)
                fresh = causes.find(self._take(sample.numbers))
                self._apply(causes, fresh)
                bar.advance(before - len(self.unexplained))
                if not fresh or not len(self.unexplained):
                    break

    def result(self) -> dict[str, Any]:
        """See `parity`."""
        unexplained = len(self.unexplained)
        first: list[int] = []
        if unexplained:
            first = self.unexplained.read(0, min(_EXAMPLES, unexplained)).tolist()
        return {
            "run": str(self.scorer.run.path),
            "model": self.scorer.fingerprint,
            "log": self.served.name,
            "rows": self.served.num_rows,
            "differ": self.differ,
            "explained": self.differ - unexplained,
            "unexplained": unexplained,
            "tasks": {
                task: {
                    "column": self.served.columns[task],
                    "rows": compared.rows,
                    "differ": compared.differ,
                    "largest": compared.largest,
                    "mean": compared.total / compared.rows if compared.rows else None,
                }
                for task, compared in self.tasks.items()
            },
            "not_logged": [name for name in self.scorer.tasks.names if name not in self.tasks],
            "causes": [_told(found, explained) for found, explained in self.found],
            "unexplained_examples": first,
            "types": self.served.types,
            "tolerance": self.judge.tolerance,
        }

    def write(self, file: Path) -> None:
        """Write which rows differ, and the cause of each."""
        sorter = Sorter(self.differ, np.uint64, np.int32, memory=self.memory // 4)
        columns = [self.unexplained, *(explained.numbers for _, explained in self.found)]
        for cause, column in enumerate(columns, start=-1):
            for numbers in column.blocks():
                sorter.add(numbers.astype(np.uint64), np.full(len(numbers), cause, np.int32))
        schema = pa.schema([("row", pa.int64()), ("cause", pa.int32())])
        with atomic_path(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for block in sorter.blocks():
                assert block.values is not None
                causes = pa.array(block.values, mask=block.values < 0)
                rows = pa.array(block.keys.astype(np.int64))
                writer.write_table(pa.table([rows, causes], schema=schema))

    def _rows(self, frame: pl.DataFrame, where: str) -> ServedRows:
        try:
            batch = self.scorer.encoders.encode(frame, labels=False)
        except DataError as error:
            raise error.at(f"{self.served.name}, {where}") from error
        return ServedRows(frame, batch, self.served.scores(frame))

    def _take(self, numbers: NDArray[np.int64]) -> ServedRows:
        return self._rows(self.served.take(numbers), f"rows {numbers[0]} to {numbers[-1]}")

    def _apply(self, causes: Causes, fresh: Sequence[Found]) -> None:
        """Try causes on all rows that are not explained yet."""
        told = [(found, _Explained(self.spool.column(np.int64))) for found in fresh]
        left = Spool(self.memory // 16).column(np.int64)
        for numbers in self.unexplained.blocks(self.scorer.encoders.piece_rows):
            self._apply_to(numbers, causes, told, left)
        self.unexplained = left
        self.found += [(found, explained) for found, explained in told if len(explained.numbers)]
        self.found.sort(key=lambda pair: -len(pair[1].numbers))

    def _apply_to(
        self,
        numbers: NDArray[np.int64],
        causes: Causes,
        told: Sequence[tuple[Found, _Explained]],
        left: SpoolColumn,
    ) -> None:
        rows = self._take(numbers)
        open_B = np.ones(len(numbers), np.bool_)
        for found, explained in told:
            reading = causes.read(found.cause, rows)
            if reading is None:
                continue
            ((_, mask),) = self.judge.reproduced([(found.cause, reading)], rows.served)
            hit = np.flatnonzero(mask & open_B)
            open_B &= ~mask
            explained.numbers.append(numbers[hit])
            for place in hit[: _EXAMPLES - len(explained.examples)].tolist():
                example = _example(int(numbers[place]), rows.frame[place], found.cause)
                explained.examples.append(example)
        left.append(numbers[open_B])


def _example(number: int, row: pl.DataFrame, cause: Cause) -> dict[str, Any]:
    names = dict.fromkeys(name for candidate in cause for name in candidate.group.members)
    return {"row": number, "values": {name: _plain(row[name].to_list()[0]) for name in names}}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and np.isfinite(value) else str(value)


def _told(found: Found, explained: _Explained) -> dict[str, Any]:
    return {
        "features": [_words(candidate) for candidate in found.cause],
        "rows": len(explained.numbers),
        "examples": explained.examples,
        "also": [_words(candidate) for candidate in found.also],
        "contradicted": found.contradicted,
    }


def _words(candidate: Candidate) -> dict[str, str]:
    return {
        "feature": candidate.group.name,
        "cause": candidate.variant.cause,
        "words": candidate.variant.words,
    }
