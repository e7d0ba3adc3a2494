"""Batches in the order of the log: for validation and scoring."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from recmtl.batch import Batch
from recmtl.data.counts import EncodeCounts
from recmtl.data.cutting import cut_rows, pad_to
from recmtl.data.encode import Encoders
from recmtl.data.prefetch import prefetched
from recmtl.data.reading import batches_ahead
from recmtl.data.scan import Log
from recmtl.errors import DataError, SpecError

__all__ = ["batches_in_order"]


def batches_in_order(
    log_or_frame: Log | pl.DataFrame,
    encoders: Encoders,
    *,
    batch_size: int,
    labels: bool,
    start_row: int = 0,
    rank: int = 0,
    world_size: int = 1,
    counts: EncodeCounts | None = None,
    prefetch: bool = True,
    pad: bool = False,
) -> Iterator[Batch]:
    """This rank's part of the batches of a log, in its order, in bounded memory.

    A global batch is the next `batch_size` rows; rank r has its r-th part of `batch_size /
    world_size` rows. Every rank gives equally many batches; of the last one a rank's part can be
    shorter, or empty.

    Args:
        log_or_frame: rows.
        encoders: turn them into batches.
        batch_size: rows of a global batch, a multiple of `world_size`.
        labels: whether to read labels and sample weights.
        start_row: first row to read.
        rank: number of this process.
        world_size: number of processes.
        counts: where values, nulls and out-of-vocabulary ids of this rank's rows are counted.
        prefetch: whether a thread reads ahead.
        pad: fill the last batch with rows of weight 0, so that every batch has `batch_size /
            world_size` rows.

    Raises:
        SpecError: `batch_size` is no multiple of `world_size`.
        DataError: a file that is corrupt, or values that the spec forbids.
    """
    if batch_size % world_size:
        raise SpecError(
            f"`batch_size` is {batch_size}, but it must be a multiple of the number of processes "
            f"({world_size}). Use "
            f"{-(-batch_size // world_size) * world_size}."
        )
    share = batch_size // world_size
    if isinstance(log_or_frame, Log):
        log_or_frame.require_room(encoders.columns(labels=labels), encoders.spec.data.memory_bytes)

    def batches() -> Iterator[Batch]:
        piece_rows = max(encoders.piece_rows // batch_size, 1) * batch_size
        total = log_or_frame.num_rows if isinstance(log_or_frame, Log) else log_or_frame.height
        for start in range(start_row, total, piece_rows):
            stop = min(start + piece_rows, total)
            # This rank's rows of each global batch in the piece, relative to its start.
            firsts = np.arange(rank * share, stop - start + rank * share, batch_size)
            sizes = np.clip(stop - start - firsts, 0, share)
            piece = _encode(
                log_or_frame, encoders, start, stop, firsts, sizes, labels=labels, counts=counts
            )
            for batch in cut_rows(piece, sizes.tolist()):
                yield pad_to(batch, share) if pad else batch

    if not prefetch:
        return batches()
    ahead = batches_ahead(encoders, share, encoders.spec.data.memory_bytes)
    return prefetched(batches(), ahead=ahead)


def _encode(
    log_or_frame: Log | pl.DataFrame,
    encoders: Encoders,
    start: int,
    stop: int,
    firsts: np.ndarray,
    sizes: np.ndarray,
    *,
    labels: bool,
    counts: EncodeCounts | None,
) -> Batch:
    if isinstance(log_or_frame, Log):
        name, frame = (
            log_or_frame.name,
            log_or_frame.read(encoders.columns(labels=labels), start, stop),
        )
    else:
        name, frame = "frame", log_or_frame.slice(start, stop - start)
    mine = np.repeat(firsts - np.cumsum(sizes) + sizes, sizes) + np.arange(int(sizes.sum()))
    whole = len(mine) == frame.height
    try:
        batch = encoders.encode(
            frame if whole else frame[mine], labels=labels, rows=mine + start, counts=counts
        )
    except DataError as error:
        raise error.at(f"{name}, rows {start} to {stop - 1}") from error
    return batch
