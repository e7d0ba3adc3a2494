"""What is drawn in a resample: users, or so many parts of all users where there are too many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recmtl.data.codes import Aside, CodedColumn
from recmtl.data.hashing import splitmix64
from recmtl.metrics.spool import BLOCK_ROWS, Spool

__all__ = ["MOST_UNITS", "UNIT", "Units", "with_units"]

MOST_UNITS = 4096
"""A variance estimated from so many is off by 2 %, no more than by a thousand resamples."""
UNIT = ""
"""Name of the column of units beside segments; no column of a log has it."""


@dataclass(frozen=True)
class Units:
    """Groups as units that are drawn together; groups whose rows depend on each other stay whole.

    Attributes:
        count: units are numbered below it.
        groups_U: the group of each unit, ascending; None where a unit is a part of all groups,
            chosen by a hash.
    """

    count: int
    groups_U: NDArray[np.integer] | None

    @classmethod
    def of_groups(cls, blocks: Iterable[NDArray[np.integer]], most: int = MOST_UNITS) -> Units:
        """One unit a group that has rows, or `most` parts of the groups where there are more.

        Args:
            blocks: the group of each row; of all numbers up to the largest, few may have rows.
            most: units at most.
        """
        groups_U = np.empty(0, np.int64)
        for code_N in blocks:
            groups_U = np.union1d(groups_U, code_N)
            if len(groups_U) > most:
                return cls(most, None)
        return cls(len(groups_U), groups_U)

    @property
    def is_part(self) -> bool:
        """Whether a unit is a part of all groups."""
        return self.groups_U is None

    def __call__(self, code_N: NDArray[np.integer]) -> NDArray[np.uint32]:
        """The unit of each group.

        Example:
            >>> few = Units.of_groups([np.array([9, 2, 9])])
            >>> many = Units.of_groups([np.arange(100)], 10)
            >>> few(np.array([9, 2])), many(np.array([2, 99]))
            (array([1, 0], dtype=uint32), array([0, 3], dtype=uint32))
        """
        if self.groups_U is not None:
            return np.searchsorted(self.groups_U, code_N).astype(np.uint32)
        return (splitmix64(code_N.astype(np.int64)) % np.uint64(self.count)).astype(np.uint32)


def with_units(aside: Aside, num_rows: int, *, memory: int | None) -> tuple[Aside, Units]:
    """The columns beside the rows, and one more: each row's unit.

    Args:
        aside: groups and segments; without groups every row is one.
        num_rows: number of rows.
        memory: bytes to use, None for as many as it takes.
    """
    groups = aside.groups

    def blocks() -> Iterator[NDArray[np.integer]]:
        for start in range(0, num_rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, num_rows)
            yield np.arange(start, stop) if groups is None else groups.codes.read(start, stop)

    units = Units.of_groups(blocks())
    column = Spool(None if memory is None else memory // 32).column(np.uint32)
    for code_N in blocks():
        column.append(units(code_N))
    segments = {**aside.segments, UNIT: CodedColumn(column, units.count)}
    return Aside(groups, segments), units
