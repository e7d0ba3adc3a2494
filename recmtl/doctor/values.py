"""Validation values that would end training at its first validation are found before it begins."""

from __future__ import annotations

from recmtl._progress import Progress, no_progress
from recmtl.data import EncodeCounts, Encoders, Log
from recmtl.errors import DataError

__all__ = ["encode_all"]

_PIECE_ROWS = 131_072


def encode_all(encoders: Encoders, log: Log, *, progress: Progress = no_progress) -> EncodeCounts:
    """Encode every row of a log, keep nothing but the counts.

    Raises:
        DataError: a value or a label that the spec forbids; names the file and the column.
    """
    counts = EncodeCounts()
    with progress("check validation rows", log.num_rows, "rows") as bar:
        for start in range(0, log.num_rows, _PIECE_ROWS):
            frame = log.read(encoders.columns(labels=True), start, start + _PIECE_ROWS)
            try:
                encoders.encode(frame, labels=True, counts=counts)
            except DataError as error:
                problems = [f"{log.name}: {line}" for line in str(error).splitlines()]
                raise DataError.all_of(problems) from error
            bar.advance(frame.height)
    return counts
