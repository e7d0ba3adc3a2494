"""Rows of a log by their numbers, encoded piece by piece in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.batch import Batch
from recmtl.data.encode import Encoders
from recmtl.data.forward import release
from recmtl.data.heap import trim
from recmtl.data.scan import Log
from recmtl.errors import DataError

__all__ = ["batches_ahead", "encode_rows", "read_rows"]

_MOST_AHEAD = 4
_ENCODED_ROWS, _ENCODED_BYTES = (1 << 14, 1 << 15), 5 << 20  # at once: they stay in the cache


def encode_rows(
    log: Log, encoders: Encoders, numbers: Iterable[NDArray[np.int64]]
) -> Iterator[Batch]:
    """Rows of a training log, encoded with labels; `encoders.piece_rows` are read at a time.

    Args:
        log: the log.
        encoders: fitted on it.
        numbers: row numbers, rising in each array; arrays one after the other.

    Raises:
        DataError: a file that is corrupt, or values that the spec forbids; says where.
    """
    pieces = read_rows(log, encoders.columns(labels=True), numbers, at_once=encoders.piece_rows)
    fewest, most = _ENCODED_ROWS
    step = min(max(int(_ENCODED_BYTES / encoders.row_bytes), fewest), most)
    for frame, rows in pieces:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            try:
                batch = encoders.encode(frame.slice(start, len(part)), labels=True, rows=part)
            except DataError as error:
                raise error.at(f"{log.name}, rows {part.min()} to {part.max()}") from error
            yield batch
            del batch
        del frame
        trim()


def batches_ahead(encoders: Encoders, batch_size: int, memory_bytes: int) -> int:
    """How many batches may wait to be used: four, or as many as a sixteenth of the budget holds."""
    batch_bytes = 2 * encoders.row_bytes * batch_size  # ids take 8 bytes there
    return int(min(max(memory_bytes / 16 / batch_bytes, 1), _MOST_AHEAD))


def read_rows(
    log: Log, columns: Sequence[str], numbers: Iterable[NDArray[np.int64]], *, at_once: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.int64]]]:
    """Rows of a log and their numbers, in frames of at most `at_once` rows.

    Args:
        log: the log.
        columns: what to read.
        numbers: row numbers, rising in each array.
        at_once: no more rows than these are in memory beside those that are kept.
    """
    frames: list[pl.DataFrame] = []
    rows: list[NDArray[np.int64]] = []
    held = 0
    for stretch in _stretches(numbers, at_once):
        if held and held + len(stretch) > at_once:
            yield pl.concat(frames), np.concatenate(rows)
            frames, rows, held = [], [], 0
        frames.append(log.take(columns, stretch))
        rows.append(stretch)
        held += len(stretch)
    release()
    if frames:
        yield pl.concat(frames), np.concatenate(rows)


def _stretches(numbers: Iterable[NDArray[np.int64]], at_once: int) -> Iterator[NDArray[np.int64]]:
    for rows in numbers:
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once]
