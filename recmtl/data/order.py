"""The order of an epoch, a function of (seed, epoch) and of the sizes of log and pools alone.

The log is cut into chunks. The chunks are laid in a random order to one line, and the line is cut
into streams of equal length. Each stream is cut into pools; the rows of a pool are shuffled. Global
batch k takes the k-th share of every stream.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.data.hashing import permutation

__all__ = ["EpochOrder", "Plan", "PoolRows", "plan"]

_MAX_CHUNK_ROWS = 1 << 17
_MIN_CHUNK_ROWS = 1 << 10
_CHUNKS_PER_POOL = 4
_CHUNK_ORDER, _ROW_ORDER, _POOL_ORDER = range(3)


class Plan(NamedTuple):
    """What stays the same in every epoch."""

    num_rows: int
    streams: int
    share: int
    """Rows of a global batch that each stream gives."""
    pool_rows: int
    """Rows of a pool; as many as the log has: the whole log is one pool, in fully random order."""
    chunk_starts: NDArray[np.int64]
    chunk_sizes: NDArray[np.int64]

    @property
    def in_memory(self) -> bool:
        """Whether the whole log is one pool."""
        return self.pool_rows >= self.num_rows

    @property
    def num_batches(self) -> int:
        """Global batches of an epoch."""
        longest = -(-self.num_rows // self.streams)
        return -(-longest // self.share)

    def stream_range(self, stream: int) -> tuple[int, int]:
        """The part of the line that is the stream's; lengths differ by one at most."""
        return stream * self.num_rows // self.streams, (stream + 1) * self.num_rows // self.streams


class PoolRows(NamedTuple):
    """Rows that are shuffled together."""

    number: int
    start: int
    """First place in the stream."""
    ranges: tuple[tuple[int, int], ...]
    """Row numbers in the log, as ranges in the log's order."""

    @property
    def num_rows(self) -> int:
        """Rows in all ranges."""
        return sum(stop - start for start, stop in self.ranges)


def plan(
    group_rows: NDArray[np.int64], *, streams: int, share: int, row_bytes: float, memory_bytes: int
) -> Plan:
    """Cut a log into chunks and choose the pools' size.

    Args:
        group_rows: rows of each row group; large ones are cut, so that a pool holds several chunks.
        streams: number of virtual streams.
        share: rows of a global batch that each stream gives.
        row_bytes: memory of an encoded row.
        memory_bytes: budget for all pools together; a quarter of it is left to reading and
            prefetching.
    """
    num_rows = int(group_rows.sum())
    room = 0.75 * memory_bytes / (row_bytes + 16)  # 16: the random order itself
    pool_rows = num_rows if room >= num_rows else max(int(room / streams), 1)
    chunk_rows = min(max(pool_rows // _CHUNKS_PER_POOL, _MIN_CHUNK_ROWS), _MAX_CHUNK_ROWS)
    starts, first = [], 0
    for rows in group_rows.tolist():
        pieces = -(-rows // chunk_rows)
        starts += [first + piece * rows // pieces for piece in range(pieces)]
        first += rows
    ends = np.array([*starts[1:], num_rows], np.int64)
    first_rows = np.array(starts, np.int64)
    return Plan(num_rows, streams, share, pool_rows, first_rows, ends - first_rows)


class EpochOrder:
    """The order of one epoch of a plan."""

    def __init__(self, plan: Plan, seed: int, epoch: int) -> None:
        self.plan, self._key = plan, (seed, epoch)
        order = permutation(len(plan.chunk_sizes), *self._key, _CHUNK_ORDER)
        self._starts = plan.chunk_starts[order]
        self._ends = np.cumsum(plan.chunk_sizes[order])
        self._sizes = plan.chunk_sizes[order]

    def rows(self) -> NDArray[np.int64]:
        """All rows of the log in fully random order: the line of a log that is in memory."""
        return permutation(self.plan.num_rows, *self._key, _ROW_ORDER)

    def shuffled(self, stream: int, pool: PoolRows) -> NDArray[np.int64]:
        """The order in which the rows of a pool are given out."""
        return permutation(pool.num_rows, *self._key, _POOL_ORDER, stream, pool.number)

    def pool(self, stream: int, place: int) -> PoolRows:
        """The pool of a stream that holds the row at `place` (from 0)."""
        low, high = self.plan.stream_range(stream)
        # First pools differ in size, so that streams don't all read their next pool at one moment.
        first = max(self.plan.pool_rows * (stream + 1) // self.plan.streams, 1)
        number = 0 if place < first else 1 + (place - first) // self.plan.pool_rows
        start = 0 if number == 0 else first + (number - 1) * self.plan.pool_rows
        stop = first + number * self.plan.pool_rows
        return PoolRows(number, start, self._ranges(low + start, min(low + stop, high)))

    def _ranges(self, low: int, high: int) -> tuple[tuple[int, int], ...]:
        """Row numbers at places `low` to `high` of the line; neighbours are joined."""
        first, last = (int(i) for i in np.searchsorted(self._ends, [low, high - 1], side="right"))
        found = []
        for chunk in range(first, last + 1):
            begin = int(self._ends[chunk] - self._sizes[chunk])
            shift = int(self._starts[chunk]) - begin
            found.append((max(low, begin) + shift, min(high, int(self._ends[chunk])) + shift))
        found.sort()
        joined = [found[0]]
        for start, stop in found[1:]:
            if start == joined[-1][1]:
                joined[-1] = (joined[-1][0], stop)
            else:
                joined.append((start, stop))
        return tuple(joined)
