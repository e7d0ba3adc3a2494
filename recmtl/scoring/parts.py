"""Parts of a log, scored one after the other: read ahead, computed pass by pass, written behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from recmtl._files import atomic_path, sha256_of
from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Log, check_columns, open_log
from recmtl.data.frames import beside
from recmtl.errors import DataError
from recmtl.scoring.drift import Reference
from recmtl.scoring.row_stats import RowStats
from recmtl.scoring.scorer import FORWARD_ROWS, BatchScorer

__all__ = ["Job", "new_stats", "open_for_scoring", "passes_at_once", "read_stats", "write_parts"]

_STATS = "recmtl.stats"


@dataclass(frozen=True, slots=True)
class Job:
    """What one process needs to know to score parts of a log."""

    out: Path
    """Folder of the parts."""
    num_rows: int
    part_rows: int
    """Input rows of one part."""
    memory_bytes: int
    """Of the budget, what this process may use."""
    threads: int
    """Passes that it computes at a time."""

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.out / f"part-{part:05d}.parquet"

    def rows(self, part: int) -> int:
        """How many rows a part has."""
        return min(self.part_rows, self.num_rows - part * self.part_rows)


class _Piece(NamedTuple):
    frame: pl.DataFrame
    """Its kept columns."""
    batch: Batch
    counts: EncodeCounts


def open_for_scoring(scorer: BatchScorer, data: str | Path) -> Log:
    """The log to be scored; its columns are there and have the types of training.

    Raises:
        DataError: it does not fit the run.
    """
    log = open_log(data, columns=scorer.encoders.wanted(labels=False, keep=scorer.keep))
    check_columns(log, scorer.run.config, labels=False)
    scorer.require(log.schema.names(), f"{data}: ")
    _encode(scorer, log, 0, 0)  # types of columns that only their values tell
    return log


def write_parts(
    scorer: BatchScorer,
    log: Log,
    job: Job,
    parts: Iterable[int],
    *,
    reference: Reference | None,
    on_rows: Callable[[int], None],
    on_written: Callable[[int, str], None],
) -> None:
    """Score parts and write each, whole.

    Every pass is computed by one thread, so that no score depends on how many there are.

    Args:
        scorer: the run.
        log: the rows.
        job: how.
        parts: which parts; the next one is asked for shortly before it is needed.
        reference: around what numbers are counted.
        on_rows: told how many rows were scored.
        on_written: told number and sha256 of each part that has its name, by another thread.
    """

    def write(part: int, frames: list[pl.DataFrame], stats: RowStats) -> None:
        with atomic_path(job.path(part), tidy=False) as path:
            about = {"reference": reference and reference.digest, **stats.to_dict()}
            pl.concat(frames).write_parquet(path, metadata={_STATS: json.dumps(about)})
            sha256 = sha256_of(path)
        on_written(part, sha256)

    with passes_at_once(job.threads) as passes, ThreadPoolExecutor(1, "recmtl-write") as writer:
        written: Future[None] | None = None
        for part, pieces in _parts(scorer, log, job, parts):
            frames, stats = [], new_stats(scorer, reference)
            for frame, batch, counts in pieces:
                scores = scorer.scores(batch, through=passes.map)
                stats.add(batch, _by_task(scorer, scores), counts)
                frames.append(beside(frame, scorer.keep, scores))
                on_rows(len(batch))
            if written is not None:
                written.result()
            written = writer.submit(write, part, frames, stats)
        if written is not None:
            written.result()


def new_stats(scorer: BatchScorer, reference: Reference | None) -> RowStats:
    """No rows yet."""
    like = None if reference is None else reference.stats
    return RowStats(scorer.encoders, scorer.tasks, like)


def read_stats(scorer: BatchScorer, path: Path, reference: Reference | None) -> RowStats | None:
    """What was counted while a part was scored.

    None where that was done by a version that counted less, or beside another reference.
    """
    about = json.loads(pl.read_parquet_metadata(path).get(_STATS, "{}"))
    if not about or about["reference"] != (reference and reference.digest):
        return None
    return new_stats(scorer, reference).restored(about)


@contextmanager
def passes_at_once(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch uses one thread; elsewhere it goes on as it did."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        threads, "recmtl-pass", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _parts(
    scorer: BatchScorer, log: Log, job: Job, parts: Iterable[int]
) -> Iterator[tuple[int, Iterator[_Piece]]]:
    """Each part and its pieces, read and encoded one piece ahead in a thread."""
    # Whole forward passes, whatever the budget: their size decides the last bits of a score.
    fitting = scorer.encoders.piece_rows_within(job.memory_bytes)
    piece_rows = max(fitting // FORWARD_ROWS, 1) * FORWARD_ROWS

    def cut() -> Iterator[tuple[int, int, int]]:
        for part in parts:
            first = part * job.part_rows
            last = first + job.rows(part)
            for start in range(first, last, piece_rows):
                yield part, start, min(start + piece_rows, last)

    with ThreadPoolExecutor(1, "recmtl-score") as thread:
        pieces = cut()
        ahead = _submit(thread, scorer, log, next(pieces, None))
        while ahead is not None:
            part = ahead[0]

            def of_part(part: int = part) -> Iterator[_Piece]:
                nonlocal ahead
                while ahead is not None and ahead[0] == part:
                    ready = ahead[1]
                    ahead = _submit(thread, scorer, log, next(pieces, None))
                    yield ready.result()

            yield part, of_part()


def _submit(
    thread: ThreadPoolExecutor, scorer: BatchScorer, log: Log, piece: tuple[int, int, int] | None
) -> tuple[int, Future[_Piece]] | None:
    if piece is None:
        return None
    part, start, stop = piece
    return part, thread.submit(_encode, scorer, log, start, stop)


def _encode(scorer: BatchScorer, log: Log, start: int, stop: int) -> _Piece:
    """Kept columns of some rows, the rows encoded, and what was counted."""
    counts = EncodeCounts()
    columns = dict.fromkeys((*scorer.encoders.columns(labels=False), *scorer.keep))
    frame = log.read(list(columns), start, stop)
    try:
        rows = np.arange(start, stop)
        batch = scorer.encoders.encode(frame, labels=False, rows=rows, counts=counts)
    except DataError as error:
        where = f"{log.name}, rows {start} to {stop - 1}" if stop > start else log.name
        raise error.at(where) from error
    return _Piece(frame.select(scorer.keep), batch, counts)


def _by_task(scorer: BatchScorer, scores: Mapping[str, Any]) -> dict[str, Any]:
    return {task: scores[column] for task, column in scorer.columns().items()}
