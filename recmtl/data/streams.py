"""Training batches: shuffled, the same at every world size, resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from recmtl.batch import Batch
from recmtl.data.cutting import pad_to
from recmtl.data.encode import Encoders
from recmtl.data.order import EpochOrder, Plan, PoolRows, plan
from recmtl.data.pools import Gathered, Pool, to_batch
from recmtl.data.prefetch import prefetched
from recmtl.data.scan import Log
from recmtl.errors import DataError, SpecError

__all__ = ["TrainStreams", "encode_rows"]


class TrainStreams:
    """This rank's rows of the global batches of any epoch.

    The order of an epoch depends on (seed, epoch) and the memory budget alone. Every row is given
    out once an epoch; the last batches are filled with rows of weight 0, so that every rank has
    equally many batches of equal size. A log whose encoded rows fit into the budget is encoded once
    and kept (by every rank), in fully random order. A larger one is read again each
    epoch: each stream holds one pool of shuffled rows at a time.

    Args:
        log: training rows.
        encoders: turn them into batches.
        batch_size: rows of a global batch, a multiple of `streams`.
        seed: of the order.
        streams: virtual streams; row k of them is a share of batch k.
        memory_bytes: budget of the pools, all ranks together (each rank, where the log is kept in
            memory).
        rank: which streams are this process's: `rank`, `rank + world_size`, ...
        world_size: number of processes; divides `streams`.

    Raises:
        SpecError: sizes that don't divide.
    """

    def __init__(
        self,
        log: Log,
        encoders: Encoders,
        *,
        batch_size: int,
        seed: int,
        streams: int = 8,
        memory_bytes: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        problems = []
        if streams % world_size:
            problems.append(
                f"`train.streams` is {streams}, but {world_size} processes train: their number "
                "must divide it. Use "
                f"`train.streams={-(-streams // world_size) * world_size}`."
            )
        if batch_size % streams:
            problems.append(
                f"`train.batch_size` is {batch_size}, but it must be a multiple of `train.streams` "
                f"({streams}). Use "
                f"`train.batch_size={-(-batch_size // streams) * streams}`."
            )
        if problems:
            raise SpecError.all_of(problems)
        self.log, self.encoders, self.seed = log, encoders, seed
        self.batch_size = batch_size // world_size
        self.plan: Plan = plan(
            np.array([group.num_rows for group in log.row_groups], np.int64),
            streams=streams,
            share=batch_size // streams,
            row_bytes=encoders.row_bytes,
            memory_bytes=memory_bytes,
        )
        self._mine = range(rank, streams, world_size)
        self._kept: Pool | None = None

    @property
    def num_batches(self) -> int:
        """Global batches of an epoch."""
        return self.plan.num_batches

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's rows of the global batches `start`, `start + 1`, ... of an epoch.

        Each has `batch_size / world_size` rows. Only what is needed from `start` on is read; one
        thread reads ahead.

        Raises:
            DataError: a file that is corrupt, or values that the spec forbids.
        """
        order = EpochOrder(self.plan, self.seed, epoch)
        batches = (
            self._from_memory(order, start)
            if self.plan.in_memory
            else self._from_pools(order, start)
        )
        return prefetched(pad_to(batch, self.batch_size) for batch in batches)

    def _from_memory(self, order: EpochOrder, start: int) -> Iterator[Batch]:
        if self._kept is None:
            self._kept = _load(self.log, self.encoders, ((0, self.plan.num_rows),))
        line = order.rows()
        streams = [line[slice(*self.plan.stream_range(stream))] for stream in self._mine]
        for k in range(start, self.num_batches):
            share = slice(k * self.plan.share, (k + 1) * self.plan.share)
            index_M = torch.from_numpy(np.concatenate([rows[share] for rows in streams]))
            yield to_batch([self._kept.gather(index_M)], self._kept.row_format)

    def _from_pools(self, order: EpochOrder, start: int) -> Iterator[Batch]:
        streams = [
            _Stream(self.log, self.encoders, order, stream, start * self.plan.share)
            for stream in self._mine
        ]
        for _ in range(start, self.num_batches):
            parts = [part for stream in streams for part in stream.take(self.plan.share)]
            yield to_batch(parts, self.encoders.row_format) if parts else self._no_rows()

    def _no_rows(self) -> Batch:
        frame = self.log.read(self.encoders.columns(labels=True), 0, 0)
        return self.encoders.encode(frame, labels=True)


class _Stream:
    """A place in a stream, and the pool around it."""

    def __init__(
        self, log: Log, encoders: Encoders, order: EpochOrder, number: int, place: int
    ) -> None:
        self.log, self.encoders, self.order, self.number, self.place = (
            log,
            encoders,
            order,
            number,
            place,
        )
        low, high = order.plan.stream_range(number)
        self.num_rows = high - low
        self.rows: PoolRows | None = None
        self.pool: Pool | None = None
        self.shuffled: NDArray[np.int64] = np.empty(0, np.int64)

    def take(self, count: int) -> Iterator[Gathered]:
        """The next `count` rows, or as many as are left, in parts."""
        stop = min(self.place + count, self.num_rows)
        while self.place < stop:
            pool, rows = self._around(self.place)
            chosen = self.shuffled[self.place - rows.start : stop - rows.start]
            yield pool.gather(torch.from_numpy(chosen))
            self.place += len(chosen)

    def _around(self, place: int) -> tuple[Pool, PoolRows]:
        rows, pool = self.rows, self.pool
        if rows is None or pool is None or not 0 <= place - rows.start < len(pool):
            pool = self.pool = None  # its memory is needed for the next one
            rows = self.rows = self.order.pool(self.number, place)
            pool = self.pool = _load(self.log, self.encoders, rows.ranges)
            self.shuffled = self.order.shuffled(self.number, rows)
        return pool, rows


def encode_rows(log: Log, encoders: Encoders, start: int, stop: int) -> Batch:
    """Rows of a training log, encoded with labels; errors say where they are."""
    frame = log.read(encoders.columns(labels=True), start, stop)
    try:
        return encoders.encode(frame, labels=True, first_row=start)
    except DataError as error:
        raise error.at(f"{log.name}, rows {start} to {stop - 1}") from error


def _load(log: Log, encoders: Encoders, ranges: tuple[tuple[int, int], ...]) -> Pool:
    parts = (
        encode_rows(log, encoders, low, min(low + encoders.piece_rows, stop))
        for start, stop in ranges
        for low in range(start, stop, encoders.piece_rows)
    )
    return Pool(parts, sum(stop - start for start, stop in ranges), encoders.row_format)
