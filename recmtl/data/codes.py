"""Group and segment columns as small numbers, one for each value, for logs of any length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.scan import Log
from recmtl.data.values import as_values
from recmtl.metrics.sorting import Sorter
from recmtl.metrics.spool import Spool, SpoolColumn
from recmtl.metrics.table import with_missing

__all__ = ["Aside", "CodedColumn", "read_aside"]

_Keys = NDArray[np.uint64]
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)
_SIGN = np.uint64(1 << 63)
_MOST_CODES = 2**32 - 1


@dataclass(frozen=True)
class CodedColumn:
    """A column as numbers."""

    codes: SpoolColumn
    num_codes: int
    """Codes are below it."""
    names: tuple[str, ...] = ()
    """Of a segment column, the text of the value of each code: ascending, a missing one last."""

    def read(self, rows_B: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Codes of rows by their number; quick where they are near one another."""
        if not len(rows_B):
            return np.empty(0, np.uint32)
        first = int(rows_B.min())
        found: NDArray[np.uint32] = self.codes.read(first, int(rows_B.max()) + 1)[rows_B - first]
        return found


@dataclass(frozen=True)
class Aside:
    """What metrics need of a log besides the model's input."""

    groups: CodedColumn | None
    segments: dict[str, CodedColumn]


def read_aside(
    rows: Log | pl.DataFrame, group: str | None, segments: Sequence[str], *, memory: int | None
) -> Aside:
    """Number the values of the group and segment columns, in one pass.

    Numbers lie in a spool, 4 bytes a row. What is held besides are the distinct values of strings,
    of segments, and of integers that span more than 2^32.

    Args:
        rows: where the columns are.
        group: column whose values are groups.
        segments: columns whose values are segments.
        memory: bytes to use, None for as many as it takes.

    Raises:
        DataError: a column is missing, corrupt, or has lists.
    """
    spool = Spool(None if memory is None else memory // 32)
    names = list(dict.fromkeys([*([group] if group is not None else []), *segments]))
    raw: dict[str, _Strings | _Numbers] = {}
    for frame in _pieces(rows, names, memory) if names else ():
        for name in names:
            column = as_values(frame[name])
            if column.dtype.is_integer() and column.dtype not in _INTEGERS:
                column = column.cast(pl.String)
            if name not in raw:
                is_text = column.dtype == pl.String
                raw[name] = _Strings(spool, name in segments) if is_text else _Numbers(spool)
            raw[name].append(column)
    return Aside(
        raw[group].groups(memory) if group is not None and group in raw else None,
        {name: raw[name].segments(memory) for name in dict.fromkeys(segments) if name in raw},
    )


def _pieces(
    rows: Log | pl.DataFrame, columns: Sequence[str], memory: int | None
) -> Iterator[pl.DataFrame]:
    """The columns, whole row groups at a time where they are not too large."""
    if isinstance(rows, pl.DataFrame):
        yield rows.select(columns)
        return
    most = 1 << 20 if memory is None else min(max(memory // 2048, 1 << 14), 1 << 20)
    start = stop = 0
    for group in rows.row_groups:
        if group.start + group.num_rows - start > most and stop > start:
            yield rows.read(columns, start, stop)
            start = stop
        stop = group.start + group.num_rows
        while stop - start > most:
            yield rows.read(columns, start, start + most)
            start += most
    if stop > start:
        yield rows.read(columns, start, stop)


class _Numbers:
    """Integers, floats and booleans, as unsigned integers in their order."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._keys, self._known = spool.column(np.uint64), spool.column(np.bool_)
        self._dtype: pl.DataType | None = None
        self._low, self._high = 2**64, -1

    def append(self, column: pl.Series) -> None:
        """Take values in."""
        self._dtype = column.dtype
        if column.dtype.is_float():
            column = column.cast(pl.Float64).fill_nan(None)
        known = column.is_not_null().to_numpy()
        key_N = _keys(column.fill_null(0 if column.dtype.is_numeric() else False).to_numpy())
        if known.any():
            seen = key_N if known.all() else key_N[known]
            self._low = min(self._low, int(seen.min()))
            self._high = max(self._high, int(seen.max()))
        self._keys.append(key_N)
        self._known.append(known)

    def groups(self, memory: int | None) -> CodedColumn:
        """Codes above a missing value's, which is 0."""
        span = self._high - self._low + 1
        if span < _MOST_CODES:
            low = np.uint64(min(self._low, 2**64 - 1))
            return CodedColumn(self._coded(lambda key_N: key_N - low + np.uint64(1), 0), span + 1)
        values_V = self._distinct(memory)
        return CodedColumn(
            self._coded(lambda key_N: np.searchsorted(values_V, key_N) + 1, 0), len(values_V) + 1
        )

    def segments(self, memory: int | None) -> CodedColumn:
        """Codes in the order of the values, a missing one's last."""
        values_V = self._distinct(memory)
        names = [str(value) for value in self._values(values_V)]
        codes = self._coded(lambda key_N: np.searchsorted(values_V, key_N), len(names))
        if not all(known.all() for known in self._known.blocks()):
            names = with_missing(names)
        return CodedColumn(codes, len(names), tuple(names))

    def _coded(self, code: Callable[[_Keys], NDArray[np.generic]], missing: int) -> SpoolColumn:
        codes = self._spool.column(np.uint32)
        for key_N, known in zip(self._keys.blocks(), self._known.blocks(), strict=True):
            codes.append(np.where(known, code(key_N), missing))
        return codes

    def _distinct(self, memory: int | None) -> _Keys:
        sorter = Sorter(len(self._keys), np.uint64, memory=None if memory is None else memory // 4)
        for key_N, known in zip(self._keys.blocks(), self._known.blocks(), strict=True):
            sorter.add(key_N[known])
        parts = [np.unique(block.keys) for block in sorter.blocks()]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)

    def _values(self, values_V: _Keys) -> list[Any]:
        """What the keys were made of."""
        assert self._dtype is not None
        found: NDArray[Any] = values_V
        if self._dtype.is_float():
            found = _floats(values_V)
        elif self._dtype == pl.Boolean:
            found = values_V.astype(np.bool_)
        elif self._dtype.is_signed_integer():
            found = (values_V ^ _SIGN).view(np.int64)
        return list(found.tolist())


class _Strings:
    """Strings, as numbers in the order in which they came; 0 is a missing one."""

    def __init__(self, spool: Spool, is_named: bool) -> None:
        self._spool = spool
        self._codes = spool.column(np.uint32)
        self._dtype = pl.Categorical(pl.Categories.random())
        self._alive = pl.Series([""], dtype=self._dtype)  # polars forgets what no column has
        self._names: dict[str, int] | None = {} if is_named else None
        self._most = 0
        self._has_missing = False

    def append(self, column: pl.Series) -> None:
        """Take values in."""
        code_N = self._numbers(column)
        self._most = max(self._most, int(code_N.max(initial=0)))
        self._has_missing |= column.null_count() > 0
        self._codes.append(code_N)
        if self._names is not None:
            values = column.drop_nulls().unique()
            self._names.update(zip(values.to_list(), self._numbers(values).tolist(), strict=True))

    def _numbers(self, column: pl.Series) -> NDArray[np.uint32]:
        physical = column.cast(self._dtype).to_physical().cast(pl.UInt32) + 1
        found: NDArray[np.uint32] = physical.fill_null(0).to_numpy()
        return found

    def groups(self, memory: int | None) -> CodedColumn:
        """Codes in the order in which the values came."""
        return CodedColumn(self._codes, self._most + 1)

    def segments(self, memory: int | None) -> CodedColumn:
        """Codes in the order of the values, a missing one's last."""
        assert self._names is not None
        names = sorted(self._names)
        ranks = np.full(self._most + 1, len(names), np.uint32)
        ranks[[self._names[name] for name in names]] = np.arange(len(names))
        codes = self._spool.column(np.uint32)
        for code_N in self._codes.blocks():
            codes.append(ranks[code_N])
        named = with_missing(names) if self._has_missing else names
        return CodedColumn(codes, len(named), tuple(named))


def _keys(values: NDArray[np.generic]) -> _Keys:
    """Unsigned integers in the order of the values; 0.0 and -0.0 are equal."""
    if values.dtype.kind == "f":
        bits = (values.astype(np.float64) + 0.0).view(np.int64)
        return bits.view(np.uint64) ^ ((bits >> 63).view(np.uint64) | _SIGN)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ _SIGN
    return values.astype(np.uint64)


def _floats(key_V: _Keys) -> NDArray[np.float64]:
    """The floats of `_keys`."""
    turned = ((key_V ^ _SIGN).view(np.int64) >> 63).view(np.uint64)
    return (key_V ^ (turned | _SIGN)).view(np.float64)
