"""DataSpec: where the rows are, which of them validate, and what else is read with them."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from recmtl.spec._base import StrictModel

__all__ = ["DataSpec", "SplitByKey", "SplitByTime"]

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB|TiB)")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class SplitByKey(StrictModel):
    """A random part of the keys validates: every row of a key falls on one side."""

    fraction: float = Field(gt=0, lt=1)
    """Share of the keys (about that share of the rows) that validates."""
    by: str
    """Column of the key, for example `user_id`."""


class SplitByTime(StrictModel):
    """The last rows in time validate."""

    last: float = Field(gt=0, lt=1)
    """Share of the rows that validates: those with the largest values of `by`."""
    by: str
    """Column of the time: an integer, a float, a date or a datetime."""


class DataSpec(StrictModel):
    """Where the rows are and what is read beside features and labels."""

    train: str
    """Parquet file, glob or folder, relative to `--data` (default: the folder of the spec)."""
    valid: str | SplitByKey | SplitByTime | None = None
    """Validation rows: a file, glob or folder, `{fraction: 0.1, by: user_id}`, or `{last: 0.1, by: ts}`. Without it there
    is no validation, and the last checkpoint is the best one."""
    weight: str | None = None
    """Column of sample weights (finite, not negative)."""
    group_by: str | None = None
    """Column whose groups GAUC averages over, for example `user_id`."""
    segments: tuple[str, ...] = ()
    """Columns for whose values metrics are given separately."""
    keep: tuple[str, ...] = ()
    """Columns that scoring copies to its output."""
    memory: str = "1GiB"
    """Budget of shuffle pools, prefetch and fitting, such as `512MiB` or `4GiB`."""
    accept_leaks: tuple[str, ...] = ()
    """Columns that the leakage check reports but does not refuse."""

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, memory: str) -> str:
        if _MEMORY.fullmatch(memory) is None:
            raise ValueError("must be a number and a unit, such as 512MiB or 4GiB")
        return memory

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        number, unit = _MEMORY.fullmatch(self.memory).groups()  # type: ignore[union-attr]  # validated above
        return int(float(number) * _UNITS[unit])
