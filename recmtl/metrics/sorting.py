"""Keys in ascending order, whatever their number: sorted in memory, or in runs that are merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from recmtl.metrics.spool import BLOCK_ROWS, Spool, SpoolColumn

__all__ = ["Sorted", "Sorter"]

_LEAST_ROWS = 1 << 12


class Sorted(NamedTuple):
    """Some rows in ascending order of their keys."""

    keys: NDArray[Any]
    values: NDArray[Any] | None
    """What was added with the keys."""


class Sorter:
    """Sorts keys, and a value beside each, within a number of bytes.

    Keys that do not fit are sorted in runs, which are spooled and merged block by block.

    Args:
        rows: how many keys there will be at most.
        keys: their dtype; complex keys are in order of their real, then imaginary parts.
        values: dtype of the values beside them, None without.
        memory: bytes to use, None for as many as it takes.

    Example:
        >>> sorter = Sorter(4, np.uint64)
        >>> sorter.add(np.array([3, 1])), sorter.add(np.array([2, 1]))
        (None, None)
        >>> [block.keys.tolist() for block in sorter.blocks()]
        [[1, 1, 2, 3]]
    """

    def __init__(
        self,
        rows: int,
        keys: DTypeLike,
        values: DTypeLike | None = None,
        *,
        memory: int | None = None,
    ) -> None:
        """Make room for one run; it is used up as keys come."""
        key_bytes = np.dtype(keys).itemsize
        # Keys alone are sorted in place; beside values there is an order, and a copy of each.
        row_bytes = key_bytes
        if values is not None:
            row_bytes = 2 * (key_bytes + np.dtype(values).itemsize) + 12
        run_rows = rows if memory is None else min(rows, max(memory // row_bytes, _LEAST_ROWS))
        self._keys = np.empty(run_rows, keys)
        self._values = None if values is None else np.empty(run_rows, values)
        self._filled = 0
        self._spool = Spool(memory=0)
        self._runs: list[_Run] = []

    def add(self, keys: NDArray[Any], values: NDArray[Any] | None = None) -> None:
        """Take keys in."""
        done = 0
        while done < len(keys):
            if self._filled == len(self._keys):
                self._spill()
            part = slice(done, done + len(self._keys) - self._filled)
            into = slice(self._filled, self._filled + len(keys[part]))
            self._keys[into] = keys[part]
            if self._values is not None and values is not None:
                self._values[into] = values[part]
            self._filled = into.stop
            done += into.stop - into.start

    def blocks(self) -> Iterator[Sorted]:
        """All keys in ascending order, `BLOCK_ROWS` at a time; may be asked for once."""
        if not self._runs:
            found = self._sort()
            for start in range(0, self._filled, BLOCK_ROWS):
                yield _cut(found, start, start + BLOCK_ROWS)
            return
        self._spill()
        room = len(self._keys)
        self._keys, self._values = np.empty(0, self._keys.dtype), None  # room for the merge
        try:
            yield from _in_blocks(_merged(self._runs, room))
        finally:
            self._spool.close()

    def _sort(self) -> Sorted:
        keys = self._keys[: self._filled]
        if self._values is None:
            keys.sort()
            return Sorted(keys, None)
        order = np.argsort(keys, kind="stable")
        return Sorted(keys[order], self._values[: self._filled][order])

    def _spill(self) -> None:
        run = _Run(
            self._spool.column(self._keys.dtype),
            None if self._values is None else self._spool.column(self._values.dtype),
        )
        found = self._sort()
        for start in range(0, self._filled, BLOCK_ROWS):
            keys, values = _cut(found, start, start + BLOCK_ROWS)
            run.keys.append(keys)
            if run.values is not None and values is not None:
                run.values.append(values)
        self._runs.append(run)
        self._filled = 0


class _Run(NamedTuple):
    """Sorted keys on disk."""

    keys: SpoolColumn
    values: SpoolColumn | None

    def read(self, start: int, rows: int) -> Sorted:
        stop = min(start + rows, len(self.keys))
        values = None if self.values is None else self.values.read(start, stop)
        return Sorted(self.keys.read(start, stop), values)


def _merged(runs: list[_Run], room: int) -> Iterator[Sorted]:
    """The runs as one: whatever is not above the least key that is still to be read is in order."""
    rows = min(max(room // (4 * len(runs)), 1 << 10), 1 << 20)
    heads = [run.read(0, rows) for run in runs]
    read = [len(head.keys) for head in heads]
    while any(len(head.keys) for head in heads):
        ends = [
            head.keys[-1]
            for head, run, at in zip(heads, runs, read, strict=True)
            if at < len(run.keys)
        ]
        parts = []
        for number, head in enumerate(heads):
            stop = len(head.keys)
            if ends:
                stop = int(np.searchsorted(head.keys, np.min(ends), side="right"))
            parts.append(_cut(head, 0, stop))
            heads[number] = _cut(head, stop, None)
            if stop == len(head.keys) and read[number] < len(runs[number].keys):
                heads[number] = runs[number].read(read[number], rows)
                read[number] += len(heads[number].keys)
        yield _in_order(parts)


def _in_order(parts: list[Sorted]) -> Sorted:
    keys = np.concatenate([part.keys for part in parts])
    values = [part.values for part in parts if part.values is not None]
    if not values:
        keys.sort()
        return Sorted(keys, None)
    order = np.argsort(keys, kind="stable")
    return Sorted(keys[order], np.concatenate(values)[order])


def _in_blocks(pieces: Iterator[Sorted]) -> Iterator[Sorted]:
    """The same rows, `BLOCK_ROWS` at a time."""
    waiting: list[Sorted] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece.keys)
        if count < BLOCK_ROWS:
            continue
        joined = _join(waiting)
        whole = count // BLOCK_ROWS * BLOCK_ROWS
        for start in range(0, whole, BLOCK_ROWS):
            yield _cut(joined, start, start + BLOCK_ROWS)
        waiting, count = [_cut(joined, whole, None)], count - whole
    if count:
        yield _join(waiting)


def _join(parts: list[Sorted]) -> Sorted:
    values = [part.values for part in parts if part.values is not None]
    keys = np.concatenate([part.keys for part in parts])
    return Sorted(keys, np.concatenate(values) if values else None)


def _cut(rows: Sorted, start: int, stop: int | None) -> Sorted:
    values = None if rows.values is None else rows.values[start:stop]
    return Sorted(rows.keys[start:stop], values)
