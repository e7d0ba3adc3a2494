"""The order of an epoch, a function of (seed, epoch) and of the sizes of log and pools alone.

A log within the budget is one pool in fully random order. A larger one is cut into segments (a row
group, a part of a large one, or several small ones), which are dealt to cells like cards: of each
neighbourhood of the log every cell gets one. A stream is a row of cells, most often of one, and
gives out one after the other. A cell is cut into pools, each of which takes an equal share of every
segment of the cell, rows drawn at random; the rows of a pool are shuffled. Global batch k takes the
k-th share of every stream.

So at any moment the pools of all streams together hold the same share of every segment, and of a
very large log of several hundred segments from all over it: batches are as mixed as by chance,
whatever the log is sorted by. The price is that a segment is read once for each pool of its cell:
about as often as the log is larger than the pools, `_MAX_READS` times at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.data.hashing import combine, permutation, permuted, splitmix64

__all__ = ["EpochOrder", "Piece", "Plan", "PoolRows", "plan", "pool_bytes"]

# A stream has one cell, so that a batch comes from everywhere, unless the log is so large that a
# part of it will do, or the budget so small that the log would be read too often.
_SEGMENTS_AT_ONCE, _ROWS_PER_CELL = 256, 1 << 23
_MAX_READS = 32
_MAX_SEGMENT_ROWS = 1 << 20
_SEGMENTS_PER_CELL = 4  # at least, where a stream has several cells
_PIECE_ROWS, _PIECES_PER_CELL = 256, 32  # row groups are joined until pieces are as large
_DEAL, _ROW_ORDER, _POOL_ORDER, _SEGMENT_ORDER, _CELL_ORDER, _PHASE = range(6)


class Plan(NamedTuple):
    """What stays the same in every epoch."""

    num_rows: int
    streams: int
    share: int
    """Rows of a global batch that each stream gives."""
    pool_rows: int
    """Rows of a pool at most; as many as the log has: the whole log is one pool."""
    cells: int
    """Cells of a stream."""
    reads: int
    """Pools of a cell: how often a segment is read in an epoch."""
    segment_starts: NDArray[np.int64]
    segment_sizes: NDArray[np.int64]

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


class Piece(NamedTuple):
    """Of the `size` rows from `start` on, those at places `low` to `high` of their random order."""

    start: int
    size: int
    low: int
    high: int


class PoolRows(NamedTuple):
    """Rows that are shuffled together."""

    number: int
    pieces: tuple[Piece, ...]
    """In the order of the log."""

    @property
    def num_rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.high - piece.low for piece in self.pieces)


def plan(
    group_rows: NDArray[np.int64], *, streams: int, share: int, row_bytes: float, memory_bytes: int
) -> Plan:
    """Cut a log into segments and choose the sizes of cells and pools.

    Args:
        group_rows: rows of each row group.
        streams: number of virtual streams.
        share: rows of a global batch that each stream gives.
        row_bytes: memory of an encoded row.
        memory_bytes: budget of pools, reading and prefetching together.
    """
    num_rows = int(group_rows.sum())
    if 0.75 * memory_bytes >= num_rows * (row_bytes + 16):  # 16: the random order itself
        zero, whole = np.zeros(1, np.int64), np.array([num_rows], np.int64)
        return Plan(num_rows, streams, share, num_rows, 1, 1, zero, whole)
    # One that is read, which takes more than twice its memory, and what the others have left.
    pools_at_once = 2.5 + (streams - 1) * 9 / 16
    pool_rows = max(int(pool_bytes(memory_bytes) / (row_bytes + 16) / pools_at_once), 1)
    pools = -(-num_rows // (streams * pool_rows))
    least = -(-pools // _MAX_READS)  # cells
    # Where cells are read one after the other, each must have its share of the whole log.
    fewest = streams * (1 if least == 1 else _SEGMENTS_PER_CELL * least)
    largest = max(min(_MAX_SEGMENT_ROWS, num_rows // fewest), 1)
    smallest = min(_PIECE_ROWS * pools, max(num_rows // (streams * _PIECES_PER_CELL), 1), largest)
    starts, sizes = _segments(group_rows, smallest, largest)
    cells = max(min(len(sizes) // _SEGMENTS_AT_ONCE, num_rows // _ROWS_PER_CELL), least)
    cells = -(-pools // max(round(pools / cells), 1))  # so that pools are filled
    cell_rows, pieces = -(-num_rows // (streams * cells)), len(sizes) // (streams * cells) + 2
    reads = -(-cell_rows // pool_rows)
    if reads > 1:  # a pool can be larger than the mean by a row for each segment
        reads = -(-cell_rows // max(pool_rows - pieces, pool_rows // 2, 1))
    return Plan(num_rows, streams, share, pool_rows, cells, reads, starts, sizes)


def pool_bytes(memory_bytes: int) -> int:
    """The pools' part of a budget.

    Reading takes some memory however small the budget is: the pools get two thirds of a large one
    and less than half of a small one.
    """
    return memory_bytes - max(memory_bytes * 5 // 16, min(memory_bytes * 9 // 16, 48 << 20))


def _segments(
    group_rows: NDArray[np.int64], smallest: int, largest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First rows and sizes: large row groups are cut, small neighbours are joined."""
    starts, first = [], 0
    joined = smallest  # rows of the last segment; from so many on, it is not joined to
    for rows in group_rows.tolist():
        if joined < smallest and rows < smallest:
            joined += rows
        else:
            pieces = -(-rows // largest)
            starts += [first + piece * rows // pieces for piece in range(pieces)]
            joined = rows
        first += rows
    starts_S = np.array(starts, np.int64)
    return starts_S, np.diff(starts_S, append=first)


class EpochOrder:
    """The order of one epoch of a plan."""

    def __init__(self, plan: Plan, seed: int, epoch: int) -> None:
        self.plan, self._key = plan, (seed, epoch)
        if not plan.in_memory:
            self._line = self._deal()
            self._ends = np.cumsum(plan.segment_sizes[self._line])

    def rows(self) -> NDArray[np.int64]:
        """All rows of the log in fully random order: the line of a log that is in memory."""
        return permutation(self.plan.num_rows, *self._key, _ROW_ORDER)

    def shuffled(self, stream: int, pool: PoolRows) -> NDArray[np.int64]:
        """The order in which the rows of a pool are given out."""
        return permutation(pool.num_rows, *self._key, _POOL_ORDER, stream, pool.number)

    def rows_of(self, piece: Piece) -> NDArray[np.int64]:
        """Row numbers of a piece, rising."""
        start, size, low, high = piece
        if (low, high) == (0, size):
            return np.arange(start, start + size)
        places = permuted(np.arange(low, high), size, *self._key, _SEGMENT_ORDER, start)
        return start + np.sort(places)

    def pool(self, stream: int, place: int) -> tuple[PoolRows, int]:
        """The pool that holds a place of a stream (from 0), and how many of its rows come before.

        Streams begin at different depths of their first pool, so that they don't all read their
        next pool at one moment; what was left out is given at the end.
        """
        plan, num_cells = self.plan, self.plan.streams * self.plan.cells
        low, high = plan.stream_range(stream)
        depth = (high - low) * stream // (num_cells * plan.reads)
        at = low + (place + depth) % (high - low)
        cell = at * num_cells // plan.num_rows
        cell += at >= (cell + 1) * plan.num_rows // num_cells
        bounds = [c * plan.num_rows // num_cells for c in (cell, cell + 1)]
        firsts, sizes = self._parts(*bounds)
        starts = bounds[0] + np.array(
            [int((sizes * read // plan.reads).sum()) for read in range(plan.reads + 1)]
        )
        read = int(np.searchsorted(starts, at, side="right")) - 1
        lows, highs = sizes * read // plan.reads, sizes * (read + 1) // plan.reads
        parts = np.stack([firsts, sizes, lows, highs])[:, lows < highs]
        pieces = sorted(Piece(*numbers) for numbers in parts.T.tolist())
        number = (cell - stream * plan.cells) * plan.reads + read
        return PoolRows(number, tuple(pieces)), at - int(starts[read])

    def _deal(self) -> NDArray[np.int64]:
        """Segments in the order of the line: cell by cell."""
        plan, num_segments = self.plan, len(self.plan.segment_sizes)
        hands, turns = np.divmod(np.arange(num_segments), plan.streams * plan.cells)
        # In each hand every so many segments go to the same cell of some stream, first the first of
        # them, then the second, ...: what changes slowly over the log is the same in all cells.
        phases = _ranks(np.arange(hands[-1] + 1) // plan.cells, self._hashes(_PHASE, hands[-1] + 1))
        cells = (turns + phases[hands]) % plan.cells
        streams = _ranks(hands * plan.cells + cells, self._hashes(_DEAL, num_segments))
        last = hands == hands[-1]  # perhaps a smaller one
        counts = np.bincount(cells[last], minlength=plan.cells)[cells[last]]
        shift = combine(*self._key, _DEAL) % plan.streams
        streams[last] = (streams[last] * plan.streams + shift) // counts % plan.streams
        cells += streams * plan.cells
        return np.lexsort((self._hashes(_CELL_ORDER, num_segments), cells))

    def _parts(self, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What lies at places `low` to `high` of the line: first rows, and numbers of rows."""
        first, last = (int(i) for i in np.searchsorted(self._ends, [low, high - 1], side="right"))
        chosen = slice(first, last + 1)
        segments, ends = self._line[chosen], self._ends[chosen]
        begins = ends - self.plan.segment_sizes[segments]
        cut = np.maximum(low - begins, 0)
        return self.plan.segment_starts[segments] + cut, np.minimum(high, ends) - begins - cut

    def _hashes(self, what: int, count: int) -> NDArray[np.uint64]:
        return splitmix64(np.arange(count, dtype=np.uint64) ^ np.uint64(combine(*self._key, what)))


def _ranks(groups: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The place of each element among those of its group, by its key."""
    order = np.lexsort((keys, groups))
    firsts = np.searchsorted(groups[order], groups[order])
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - firsts
    return ranks
