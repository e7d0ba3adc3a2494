"""What is drawn in a resample: users, or so many parts of all users where there are too many."""

from __future__ import annotations

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
        is_part: whether a unit is a part of all groups, chosen by a hash.
    """

    count: int
    is_part: bool

    @classmethod
    def of_groups(cls, num_groups: int, most: int = MOST_UNITS) -> Units:
        """One unit a group, or `most` parts of the groups where there are more."""
        return cls(min(num_groups, most), num_groups > most)

    def __call__(self, code_N: NDArray[np.integer]) -> NDArray[np.uint32]:
        """The unit of each group.

        Example:
            >>> Units.of_groups(3)(np.array([2, 0])), Units.of_groups(100, 10)(np.array([2, 99]))
            (array([2, 0], dtype=uint32), array([0, 3], dtype=uint32))
        """
        if not self.is_part:
            return code_N.astype(np.uint32)
        return (splitmix64(code_N.astype(np.int64)) % np.uint64(self.count)).astype(np.uint32)


def with_units(aside: Aside, num_rows: int, *, memory: int | None) -> tuple[Aside, Units]:
    """The columns beside the rows, and one more: each row's unit.

    Args:
        aside: groups and segments; without groups every row is one.
        num_rows: number of rows.
        memory: bytes to use, None for as many as it takes.
    """
    groups = aside.groups
    units = Units.of_groups(num_rows if groups is None else groups.num_codes)
    column = Spool(None if memory is None else memory // 32).column(np.uint32)
    for start in range(0, num_rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, num_rows)
        code_N = np.arange(start, stop) if groups is None else groups.codes.read(start, stop)
        column.append(units(code_N))
    segments = {**aside.segments, UNIT: CodedColumn(column, units.count)}
    return Aside(groups, segments), units
