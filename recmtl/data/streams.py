"""Training batches: shuffled, the same at every world size, resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from recmtl.batch import Batch
from recmtl.data.cutting import pad_to
from recmtl.data.encode import Encoders
from recmtl.data.heap import keep_little, trim
from recmtl.data.order import EpochOrder, Plan, PoolRows, plan
from recmtl.data.pools import Gathered, Pool, to_batch
from recmtl.data.prefetch import prefetched
from recmtl.data.reading import batches_ahead, encode_rows
from recmtl.data.scan import Log
from recmtl.errors import SpecError

__all__ = ["TrainStreams"]

_BLOCKS = 8


class TrainStreams:
    """This rank's rows of the global batches of any epoch.

    The order of an epoch depends on (seed, epoch) and the memory budget alone. Every row is given
    out once an epoch; the last batches are filled with rows of weight 0, so that every rank has
    equally many batches of equal size. A log whose encoded rows fit into the budget is encoded once
    and kept (by every rank), in fully random order. A larger one is read again each epoch, some
    parts of it several times (see `recmtl.data.order`): each stream holds what is left of one pool
    of shuffled rows.

    Args:
        log: training rows.
        encoders: turn them into batches.
        batch_size: rows of a global batch, a multiple of `streams`.
        seed: of the order.
        streams: virtual streams; row k of them is a share of batch k.
        memory_bytes: budget of pools, reading and prefetching, all ranks together (each rank,
            where the log is kept in memory).
        rank: which streams are this process's: `rank`, `rank + world_size`, ...
        world_size: number of processes; divides `streams`.

    Raises:
        SpecError: sizes that don't divide; a budget that is too small for the batch size.
        DataError: row groups that cannot be read within the budget.
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
        self.memory_bytes = memory_bytes
        self.batch_size = batch_size // world_size
        self.plan: Plan = plan(
            np.array([group.num_rows for group in log.row_groups], np.int64),
            streams=streams,
            share=batch_size // streams,
            row_bytes=encoders.row_bytes,
            memory_bytes=memory_bytes,
        )
        log.require_room(encoders.columns(labels=True), memory_bytes)
        self._require_pools()
        self._mine = range(rank, streams, world_size)
        self._kept: Pool | None = None

    def _require_pools(self) -> None:
        if self.plan.in_memory or self.plan.pool_rows >= self.plan.share:
            return
        needed = self.memory_bytes * self.plan.share / self.plan.pool_rows
        raise SpecError(
            f"`data.memory` is {self.memory_bytes / 2**20:,.1f} MiB, but the pools in which a log "
            f"of {self.plan.num_rows:,} rows of about {self.encoders.row_bytes:,.0f} bytes is "
            f"shuffled must hold a batch of {self.plan.share * self.plan.streams:,} rows. Use at "
            f"least `data.memory={needed / 2**20 + 1:,.0f}MiB`, or a smaller `train.batch_size`."
        )

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
        ahead = batches_ahead(self.encoders, self.batch_size, self.memory_bytes)
        return prefetched((pad_to(batch, self.batch_size) for batch in batches), ahead=ahead)

    def _from_memory(self, order: EpochOrder, start: int) -> Iterator[Batch]:
        if self._kept is None:
            self._kept = _load(self.log, self.encoders, self._all_rows(), self.plan.num_rows)
        line = order.rows()
        streams = [line[slice(*self.plan.stream_range(stream))] for stream in self._mine]
        for k in range(start, self.num_batches):
            share = slice(k * self.plan.share, (k + 1) * self.plan.share)
            index_M = torch.from_numpy(np.concatenate([rows[share] for rows in streams]))
            yield to_batch([self._kept.gather(index_M)], self._kept.row_format)

    def _all_rows(self) -> Iterator[NDArray[np.int64]]:
        start = 0
        while start < self.plan.num_rows:
            stop = self.log.stop_after(start, self.encoders.piece_rows)
            yield np.arange(start, stop)
            start = stop

    def _from_pools(self, order: EpochOrder, start: int) -> Iterator[Batch]:
        keep_little(self.memory_bytes)
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
        self.blocks: list[Gathered] = []
        """Rows of the pool that are not given out yet, the last ones first."""

    def take(self, count: int) -> Iterator[Gathered]:
        """The next `count` rows, or as many as are left, in parts."""
        stop = min(self.place + count, self.num_rows)
        while self.place < stop:
            if not self.blocks:
                self.blocks = self._read()
            block = self.blocks.pop()
            rows, wanted = len(block.words_MW), stop - self.place
            if wanted < rows:
                block, rest = block.cut([wanted, rows - wanted])
                self.blocks.append(rest)
            yield block
            self.place += min(rows, wanted)

    def _read(self) -> list[Gathered]:
        """The pool at this place, as blocks: their memory comes back one by one."""
        rows, before = self.order.pool(self.number, self.place)
        order = self.order.shuffled(self.number, rows)[before : before + self.num_rows - self.place]
        needed = np.sort(order)  # of the first pool and the last one, a part
        pool = _load(self.log, self.encoders, self._numbers(rows, needed), len(needed))
        index_M = torch.from_numpy(np.searchsorted(needed, order))
        blocks = [pool.gather(part) for part in reversed(index_M.chunk(_BLOCKS))]
        del pool
        trim()
        return blocks

    def _numbers(self, rows: PoolRows, needed: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Row numbers of the pool's rows at some places, piece by piece."""
        start = 0
        for piece in rows.pieces:
            numbers = self.order.rows_of(piece)
            first, last = np.searchsorted(needed, [start, start + len(numbers)])
            yield numbers[needed[first:last] - start]
            start += len(numbers)


def _load(
    log: Log, encoders: Encoders, numbers: Iterable[NDArray[np.int64]], num_rows: int
) -> Pool:
    return Pool(encode_rows(log, encoders, numbers), num_rows, encoders.row_format)
