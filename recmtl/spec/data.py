"""DataSpec: where the rows are, which of them validate, and what else is read with them."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag, field_validator

from recmtl.spec._base import StrictModel

__all__ = ["Column", "DataSpec", "Sample", "SplitByKey", "SplitByTime", "Thinned"]

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB|TiB)")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

Column = Annotated[str, Field(min_length=1)]
"""Name of a column of the log."""


class SplitByKey(StrictModel):
    """A random part of the keys validates: every row of a key falls on one side."""

    fraction: float = Field(gt=0, lt=1)
    """Share of the keys (about that share of the rows) that validates."""
    by: Column
    """Column of the key, for example `user_id`."""


class SplitByTime(StrictModel):
    """The last rows in time validate."""

    last: float = Field(gt=0, lt=1)
    """Share of the rows that validates: those with the largest values of `by`."""
    by: Column
    """Column of the time: an integer, a float, a date or a datetime."""


class Thinned(StrictModel):
    """How a log was thinned: each row was kept by chance, at a rate that its labels decide."""

    keep: dict[Column, Annotated[float, Field(gt=0, le=1)]]
    """Label columns of 0 and 1 in order, each with the share that was kept of the rows where it is
    the first that is 1, and `else`, the share kept of the rows where none is."""

    @field_validator("keep")
    @classmethod
    def _has_a_label_and_else(cls, keep: dict[str, float]) -> dict[str, float]:
        if "else" not in keep or len(keep) < 2:
            raise ValueError(
                "must give a share for a label column and for `else`, such as "
                "`{click: 1.0, else: 0.1}`."
            )
        return keep


class Sample(Thinned):
    """How training rows are thinned while they are read, and which ones chance keeps."""

    seed: int = 0
    """Another one keeps other rows."""


def _split(value: Any) -> str:
    if isinstance(value, SplitByTime) or (isinstance(value, dict) and "last" in value):
        return "time"
    return "key" if isinstance(value, SplitByKey | dict) else "path"


class DataSpec(StrictModel):
    """Where the rows are and what is read beside features and labels."""

    reserved: ClassVar[frozenset[str]] = frozenset({"request", "scenario", "time"})

    train: Column
    """Parquet or CSV: a file, glob or folder, relative to `--data` (default: the folder of the
    spec). CSV has a header line, commas and UTF-8; its types follow from the spec: an id is an
    integer where every value of the column is one, else a string; an empty field is a null; lists
    need Parquet."""
    valid: (
        Annotated[
            Annotated[Column, Tag("path")]
            | Annotated[SplitByKey, Tag("key")]
            | Annotated[SplitByTime, Tag("time")],
            Discriminator(_split),
        ]
        | None
    ) = None
    """Validation rows: a file, glob or folder, `{fraction: 0.1, by: user_id}`, or `{last: 0.1, by:
    ts}`. Without it there is no validation, and the last checkpoint is the best one."""
    weight: Column | None = None
    """Column of sample weights (finite, not negative)."""
    group_by: Column | None = None
    """Column whose groups GAUC averages over, for example `user_id`."""
    segments: tuple[Column, ...] = ()
    """Columns for whose values metrics are given separately; after each epoch only those of at most
    100 values, all of them in `eval` and the report."""
    keep: tuple[Column, ...] = ()
    """Columns that scoring copies to its output."""
    memory: str = "1GiB"
    """Budget of shuffle pools, prefetch, fitting and metrics, such as `512MiB` or `4GiB`. Outcomes
    that do not fit lie in the folder for temporary files (`TMPDIR`) until metrics are made of them.
    Not counted: tables, network, optimizer, and the distinct values of segments and of groups that
    are strings. A log that fits is shuffled as a whole, by every process for itself; of a larger
    one the budget decides, with the seed, which rows are shuffled together, and so the order."""
    sampled: Thinned | None = None
    """How training and validation rows were thinned before they came here, such as `{keep: {click:
    1.0, else: 0.1}}` where one in ten rows without a click was kept. Heads learn what is left; each
    task's predictions are corrected to all rows, from these rates and, where one label's rate
    depends on another label, what the other's task predicts. Metrics of validation rows weigh them
    by the inverse of their rates; `eval` takes rows for all there are, unless `--sampled` says that
    they were thinned alike."""
    sample: Sample | None = None
    """Thins the training rows while they are read, in the same form: `{keep: {click: 1.0, else:
    0.1}}` trains on one in ten rows without a click. Vocabularies and statistics are of the rows
    that are left; predictions are corrected to all rows, and validation rows are all there."""
    accept_leaks: tuple[Column, ...] = ()
    """Features that the leakage check reports but does not refuse."""

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, memory: str) -> str:
        found = _MEMORY.fullmatch(memory)
        if found is None or float(found[1]) == 0:
            raise ValueError(
                f"must be a number and a unit, such as `512MiB` or `4GiB`, got `{memory}`."
            )
        return memory

    @property
    def memory_bytes(self) -> int:
        """`memory` in bytes."""
        found = _MEMORY.fullmatch(self.memory)
        assert found is not None  # validated above
        return int(float(found[1]) * _UNITS[found[2]])
