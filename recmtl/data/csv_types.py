"""The types of CSV columns: what their texts can be read as.

Each kind of column has readings, the narrowest first. Every value of the file is tried, and the
first reading that fits all of them stays. An empty field is a null; an empty pair of quotes is one
too, but in a column of texts, where it is the empty text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import polars as pl

from recmtl.data.csv_index import Block, Problems
from recmtl.data.wanted import Kind, Want

__all__ = ["TEXT", "ColumnTypes", "Reading", "in_common"]


class Reading(NamedTuple):
    """A type, and how a text becomes a value of it."""

    name: str
    dtype: pl.DataType
    parse: Callable[[pl.Series], pl.Series]
    """Texts to values; null where the text is another thing."""

    def accepts(self, texts: pl.Series) -> pl.Series:
        """Which texts, none of them null, are values; `""` is a null of every type but text."""
        values = self.parse(texts)
        accepted = values.is_not_null() | (texts == "")
        if self is INTEGER:  # `007` and `+1` are no integers: as ids they are other texts than 7
            accepted &= (values.cast(pl.String) == texts).fill_null(value=True)
        return accepted


def _boolean(texts: pl.Series) -> pl.Series:
    words = pl.Series(["true", "false"])
    lower = texts.str.to_lowercase()
    return lower.replace_strict(words, [True, False], default=None, return_dtype=pl.Boolean)


def _float(texts: pl.Series) -> pl.Series:
    values = texts.cast(pl.Float64, strict=False)
    if values.null_count() == texts.null_count():
        return values
    flags = _boolean(texts).cast(pl.Float64)
    return values.zip_with(values.is_not_null(), flags)


def _datetime(texts: pl.Series) -> pl.Series:
    return texts.str.replace("T", " ").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False
    )


def _instant(texts: pl.Series) -> pl.Series:
    zoned = texts.str.replace("T", " ").str.replace("Z$", "+00:00")
    return zoned.str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f%z", time_unit="ns", time_zone="UTC", strict=False
    )


INTEGER = Reading("integers", pl.Int64(), lambda t: t.cast(pl.Int64, strict=False))
BOOLEAN = Reading("true and false", pl.Boolean(), _boolean)
FLOAT = Reading("numbers", pl.Float64(), _float)
DATE = Reading("dates", pl.Date(), lambda t: t.str.to_date("%Y-%m-%d", strict=False))
DATETIME = Reading("times", pl.Datetime("ns"), _datetime)
INSTANT = Reading("times with a zone", pl.Datetime("ns", "UTC"), _instant)
TEXT = Reading("texts", pl.String(), lambda texts: texts)

READINGS: dict[Kind, tuple[Reading, ...]] = {
    "number": (INTEGER, BOOLEAN, FLOAT),
    "id": (INTEGER, BOOLEAN, TEXT),
    "integer": (INTEGER, BOOLEAN),
    "string": (TEXT,),
    "value": (INTEGER, BOOLEAN, TEXT),
    "time": (INTEGER, FLOAT, DATE, DATETIME, INSTANT),
    "any": (INTEGER, BOOLEAN, FLOAT, TEXT),
}
_EXPECTED: dict[Kind, str] = {
    "number": "a number",
    "integer": "an integer, as the table was fitted on",
    "time": "a number, a date (2024-12-31) or a time (2024-12-31 23:59:59)",
}
_NULL_WORDS = ["null", "none", "nan", "na", "n/a", "#n/a", "nil", "\\n", "-"]


class ColumnTypes:
    """What the values of a file leave of the readings of a column.

    Attributes:
        left: readings that fit every value so far.
    """

    def __init__(self, column: str, want: Want) -> None:
        self.column, self.want = column, want
        self.left = READINGS[want.kind]
        self._reporting: Reading | None = None
        self._first_line: int | None = None
        self._ids_in_disguise = want.kind == "id"
        self._disguised: tuple[int, str] | None = None

    def add(self, texts: pl.Series, block: Block, problems: Problems) -> None:
        """Try the texts of a block."""
        if self._reporting is None:
            refused = {r.name: ~r.accepts(texts).fill_null(value=True) for r in self.left}
            left = tuple(r for r in self.left if not refused[r.name].any())
            if not left:  # what fits most of them tells which ones are wrong
                self._reporting = min(
                    reversed(self.left), key=lambda r: (refused[r.name].sum(), r is BOOLEAN)
                )
            self.left = left
        if self._reporting is not None:
            self._report(texts, block, problems)
        elif self._ids_in_disguise and self.left == (TEXT,):
            self._look_behind(texts, block)

    def finish(self, problems: Problems) -> None:
        """Say what can be said only of the whole file."""
        if self._ids_in_disguise and self._disguised is not None and self.left == (TEXT,):
            line, value = self._disguised
            problems.add(
                line,
                f"column `{self.column}` ({self.want.role}) is {_shown(value)}: but for such "
                "values it holds integers. Leave a null empty, and write integers without a point.",
            )

    def _report(self, texts: pl.Series, block: Block, problems: Problems) -> None:
        assert self._reporting is not None
        wrong = (~self._reporting.accepts(texts).fill_null(value=True)).arg_true().to_list()
        expected = _EXPECTED[self.want.kind]
        for position, record in enumerate(wrong):
            if problems.is_full:
                problems.count(len(wrong) - position)
                return
            problems.add(
                block.line(record),
                f"column `{self.column}` ({self.want.role}) is {_shown(texts[record])}, expected "
                f"{expected}, or nothing for a null.",
            )

    def _look_behind(self, texts: pl.Series, block: Block) -> None:
        """Whether an id is a text only for words like `NULL`, or for `12.0` instead of `12`."""
        others = ~INTEGER.accepts(texts).fill_null(value=True)
        odd = texts.filter(others)
        hidden = odd.str.to_lowercase().is_in(_NULL_WORDS) | odd.str.contains(r"^-?\d+\.\d*$")
        if not hidden.all():
            self._ids_in_disguise = False
        elif len(odd) and self._disguised is None:
            self._disguised = (block.line(int(others.arg_true()[0])), odd[0])


def in_common(readings: Iterable[tuple[Reading, ...]]) -> tuple[Reading, ...]:
    """What fits all of several files or columns."""
    first, *others = readings
    return tuple(r for r in first if all(r in other for other in others))


def _shown(value: str) -> str:
    value = value.replace("\n", " ").replace("\r", " ")
    return f"`{value[:40]}...`" if len(value) > 40 else f"`{value}`"
