"""Rows in the order of their scores, equal ones as one entry, however many there are.

Shape letters: N rows, V runs of equal entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics.population import Codes, Population
from recmtl.metrics.sorting import Sorted, Sorter

__all__ = ["Cells", "Runs", "Ties", "before", "run_starts", "ties_of"]

_LOW_BITS = 33
"""Bits of a score and a label."""
_NARROW_BITS = 64 - _LOW_BITS
_WIDE_BITS = 20
"""Bits of a cell that go into the imaginary part of a wide key: 53 are exact in a float64."""


class Cells(NamedTuple):
    """Which rows are ranked together: those of one segment, or of one group within a segment.

    A cell is the segment's number, followed by the group's.
    """

    column: int | None
    """Segment column, None for all rows together."""
    segment_bits: int
    group_bits: int
    """0 where groups do not count."""

    @classmethod
    def of(cls, population: Population, column: int | None, *, grouped: bool) -> Cells:
        """Cells of a segment column, or of all rows."""
        num_segments = 1 if column is None else population.segments[column]
        num_groups = population.num_groups if grouped else 1
        return cls(column, (num_segments - 1).bit_length(), max(num_groups - 1, 0).bit_length())

    @property
    def is_narrow(self) -> bool:
        """Whether a cell, a score and a label fit into 64 bits."""
        return self.segment_bits + self.group_bits <= _NARROW_BITS


class Ties(NamedTuple):
    """Distinct scores of each cell, ascending, and what stands at each."""

    cells_V: NDArray[np.uint64]
    codes_V: Codes
    """`Rows.order` of the score."""
    positives_V: NDArray[Any]
    """Weight of the positive rows (a count, int64, without weights)."""
    negatives_V: NDArray[Any]
    """Weight of the negative rows (a count, int64, without weights)."""


class Runs:
    """Sums over runs of equal keys in a stream that has them side by side.

    A run is given out when it is complete: the last one stays until more comes, or `close`.
    """

    def __init__(self) -> None:
        """Start with no run."""
        self.open: tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]] | None = None

    def add(
        self, keys: tuple[NDArray[Any], ...], values: tuple[NDArray[Any], ...]
    ) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
        """Keys and sums of the runs that are complete by now."""
        if self.open is not None:
            keys = tuple(np.concatenate(pair) for pair in zip(self.open[0], keys, strict=True))
            values = tuple(np.concatenate(pair) for pair in zip(self.open[1], values, strict=True))
        starts_V = run_starts(*keys)
        heads = tuple(key[starts_V] for key in keys)
        sums = tuple(_sums(value, starts_V) for value in values)
        self.open = tuple(h[-1:] for h in heads), tuple(s[-1:] for s in sums)
        return tuple(h[:-1] for h in heads), tuple(s[:-1] for s in sums)


def _sums(values_N: NDArray[Any], starts_V: NDArray[np.intp]) -> NDArray[Any]:
    """Sum of each run: floats one after the other, so that it does not matter how they are cut."""
    if values_N.dtype.kind != "f":
        sums: NDArray[Any] = np.add.reduceat(values_N, starts_V)
        return sums
    run_N = np.repeat(np.arange(len(starts_V)), np.diff(starts_V, append=len(values_N)))
    return np.bincount(run_N, values_N)


def run_starts(*keys: NDArray[Any]) -> NDArray[np.intp]:
    """Where runs of entries that are equal in every key start; at least one entry."""
    changes = keys[0][1:] != keys[0][:-1]
    for key in keys[1:]:
        changes |= key[1:] != key[:-1]
    return np.flatnonzero(np.concatenate([[True], changes]))


def before(
    values_V: NDArray[Any], cells_V: NDArray[np.uint64], runs: Runs, which: int
) -> NDArray[Any]:
    """What stands before each entry in its own cell: here, and in the cell that `runs` has open."""
    before_V = np.cumsum(values_V) - values_V
    starts = run_starts(cells_V)
    base = before_V[starts]
    if runs.open is not None and runs.open[0][0][0] == cells_V[0]:
        base[0] -= runs.open[1][which][0]
    found: NDArray[Any] = before_V - np.repeat(base, np.diff(starts, append=len(cells_V)))
    return found


def ties_of(population: Population, cells: Cells) -> Iterator[Ties]:
    """All rows of a binary task, by cell, then by score; a tie is never in two pieces."""
    dtype = np.uint64 if cells.is_narrow else np.complex128
    weight_dtype = np.float64 if population.is_weighted else None
    sorter = Sorter(population.num_rows, dtype, weight_dtype, memory=population.memory)
    for rows in population.blocks():
        assert rows.order is not None
        low_N = rows.order.astype(np.uint64) << np.uint64(1)
        low_N |= rows.labels.astype(np.uint64)
        cell_N = np.zeros_like(low_N)
        if cells.column is not None:
            cell_N |= rows.segments[cells.column]
        if cells.group_bits:
            assert rows.groups is not None
            cell_N = cell_N << np.uint64(cells.group_bits) | rows.groups
        sorter.add(_packed(cell_N, low_N, dtype), rows.weights)
    runs = Runs()
    for block in sorter.blocks():
        cell_N, low_N = _unpacked(block)
        positive_N = (low_N & np.uint64(1)).astype(np.int64)
        if block.values is None:
            values = (positive_N, 1 - positive_N)
        else:
            values = (
                np.where(positive_N, block.values, 0.0),
                np.where(positive_N, 0.0, block.values),
            )
        keys, sums = runs.add((cell_N, (low_N >> np.uint64(1)).astype(np.uint32)), values)
        if len(keys[0]):
            yield Ties(keys[0], keys[1], sums[0], sums[1])
    if runs.open is not None:
        (cells_V, codes_V), (positives_V, negatives_V) = runs.open
        yield Ties(cells_V, codes_V, positives_V, negatives_V)


def _packed(
    cell_N: NDArray[np.uint64], low_N: NDArray[np.uint64], dtype: Any
) -> NDArray[np.uint64] | NDArray[np.complex128]:
    if dtype is np.uint64:
        return cell_N << np.uint64(_LOW_BITS) | low_N
    middle_N = cell_N & np.uint64((1 << _WIDE_BITS) - 1)
    key_N = np.empty(len(cell_N), np.complex128)
    key_N.real = cell_N >> np.uint64(_WIDE_BITS)
    key_N.imag = middle_N << np.uint64(_LOW_BITS) | low_N
    return key_N


def _unpacked(block: Sorted) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    mask = np.uint64((1 << _LOW_BITS) - 1)
    if block.keys.dtype == np.uint64:
        return block.keys >> np.uint64(_LOW_BITS), block.keys & mask
    low_N = block.keys.imag.astype(np.uint64)
    cell_N = block.keys.real.astype(np.uint64) << np.uint64(_WIDE_BITS)
    return cell_N | low_N >> np.uint64(_LOW_BITS), low_N & mask
