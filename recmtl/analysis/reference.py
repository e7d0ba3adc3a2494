"""What the rows of a run looked like when it was trained: later logs are compared with it.

Shape letters: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from recmtl.analysis.rows import fitting_rows, spread_rows
from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Encoders, Log, Splits
from recmtl.data.hashing import splitmix64
from recmtl.data.reading import read_rows
from recmtl.errors import DataError
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.scoring.drift import RowsOf, write_reference
from recmtl.scoring.row_stats import RowStats
from recmtl.tasks.sampling import Thinning, row_rates

__all__ = ["keep_reference"]

_MOST_ROWS, _LEAST_ROWS = 131_072, 4096
_STRETCHES = 32

_Piece = tuple[Batch, dict[str, NDArray[np.float32]], EncodeCounts]


def keep_reference(run: Run, splits: Splits) -> None:
    """Count nulls, ids, values and scores of up to 131,072 rows, and keep that in the run.

    They are validation rows, which the vocabularies were not made of, or training rows where there
    are none; they lie evenly spread, and are no more than an eighth of `data.memory` holds. Where
    they were thinned (`data.sampled`; training rows by `data.sample` too), rows of which more were
    kept are thinned to the share of the others, so that all of them speak for the whole.

    Args:
        run: the run, with its best checkpoint.
        splits: the rows that it was trained with.

    Raises:
        DataError: a file that is corrupt, or values that the spec forbids; says where.
    """
    rows_of: RowsOf = "training" if splits.valid is None else "validation"
    log = splits.train if splits.valid is None else splits.valid
    scorer = BatchScorer(run.path, keep=())
    thinnings, sample = scorer.tasks.thinnings, run.config.data.sample
    if splits.valid is None and sample is not None:
        thinnings = (*thinnings, Thinning.of(sample.keep))
    pieces: list[_Piece] = []
    for batch, counts in _read(scorer.encoders, thinnings, log):
        scores = scorer.scores(batch)
        by_task = {task: scores[column] for task, column in scorer.columns().items()}
        pieces.append((batch, by_task, counts))
    rough = _added_up(RowStats(scorer.encoders, scorer.tasks), pieces)
    stats = _added_up(RowStats(scorer.encoders, scorer.tasks, like=rough), pieces)
    write_reference(run, rows_of, stats)


def _added_up(stats: RowStats, pieces: Sequence[_Piece]) -> RowStats:
    for piece in pieces:
        stats.add(*piece)
    return stats


def _read(
    encoders: Encoders, thinnings: Sequence[Thinning], log: Log
) -> Iterator[tuple[Batch, EncodeCounts]]:
    """Rows that are spread over a log, piece by piece, and what was met in each."""
    most = min(_MOST_ROWS, max(fitting_rows(encoders), _LEAST_ROWS))
    numbers = spread_rows(log.num_rows, most, stretches=_STRETCHES)
    columns = encoders.columns(labels=bool(thinnings))
    # Stretch by stretch, so that what lies between them is not read.
    together = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    for found, rows in read_rows(log, columns, together, at_once=encoders.piece_rows):
        try:
            frame = found
            if thinnings:
                labels_BK = encoders.encode(found, labels=True).labels_BK
                rate_B = row_rates(labels_BK, encoders.labels, thinnings)
                frame = found.filter(pl.Series(_speaks_for_all(rate_B, thinnings, rows)))
            counts = EncodeCounts()
            yield encoders.encode(frame, labels=False, counts=counts), counts
        except DataError as error:
            raise error.at(f"{log.name}, rows {rows.min()} to {rows.max()}") from error


def _speaks_for_all(
    rate_B: Tensor, thinnings: Sequence[Thinning], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rows of a thinned log to take, so that rows of all labels are as rare as in the whole.

    A row of a share is taken with a chance in proportion to one over it, by its number's hash.
    """
    least = math.prod(
        min(*(share for _, share in thinning.keep), thinning.otherwise) for thinning in thinnings
    )
    chance_B = least / rate_B.double().numpy()
    return splitmix64(rows) < np.minimum(chance_B, 1.0) * 2.0**64
