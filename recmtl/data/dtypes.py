"""What a column's polars type means to us: an id, a text, a number, or a list of one of them."""

from __future__ import annotations

from typing import Literal

import polars as pl

__all__ = ["Family", "common", "family", "inner", "is_list", "is_list_of_numbers", "normal"]

Family = Literal["int", "string", "float", "null", "other"]
"""Integers, booleans and decimals without places; strings and categories; floats and decimals with
places; only nulls; all else."""


def is_list(dtype: pl.DataType) -> bool:
    """Whether each row of the column holds a list.

    Example:
        >>> is_list(pl.List(pl.Int64())), is_list(pl.Int64())
        (True, False)
    """
    return isinstance(dtype, pl.List | pl.Array)


def is_list_of_numbers(dtype: pl.DataType) -> bool:
    """Whether each row of the column holds a list of numbers.

    Example:
        >>> is_list_of_numbers(pl.List(pl.Float32())), is_list_of_numbers(pl.List(pl.String()))
        (True, False)
    """
    return is_list(dtype) and family(inner(dtype)) in ("int", "float", "null")


def inner(dtype: pl.DataType) -> pl.DataType:
    """The type of a list's items; of anything else, its own type.

    Example:
        >>> inner(pl.List(pl.Int64())), inner(pl.String())
        (Int64, String)
    """
    dtype = normal(dtype)
    return dtype.inner if isinstance(dtype, pl.List) else dtype  # type: ignore[return-value]


def family(dtype: pl.DataType) -> Family:
    """The family of a type that is no list.

    Example:
        >>> family(pl.UInt8()), family(pl.Categorical()), family(pl.Float32()), family(pl.Date())
        ('int', 'string', 'float', 'other')
    """
    if dtype.is_integer() or isinstance(dtype, pl.Boolean) or _is_whole(dtype):
        return "int"
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "string"
    if dtype.is_float() or isinstance(dtype, pl.Decimal):
        return "float"
    return "null" if isinstance(dtype, pl.Null) else "other"


def normal(dtype: pl.DataType) -> pl.DataType:
    """The type in which a column is read: categories become strings, fixed-size lists become lists.

    Example:
        >>> normal(pl.List(pl.Categorical()))
        List(String)
    """
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.Array):
        item = dtype.inner
        for length in reversed(dtype.shape[1:]):
            item = pl.Array(item, length) if not isinstance(item, pl.Array) else item
        return pl.List(normal(item))  # type: ignore[arg-type]
    if isinstance(dtype, pl.List):
        return pl.List(normal(dtype.inner))  # type: ignore[arg-type]
    return dtype


def common(first: pl.DataType, second: pl.DataType, *, numbers: bool = False) -> pl.DataType | None:
    """The type that holds the columns of two files, or None where they are different things.

    Integers of any width go together (as the wider one, at most Int64 if one is signed), booleans
    with them as 0 and 1, and floats; decimals of equally many places; times of several units, and
    of several time zones as instants; a column of nothing but nulls goes with anything.

    Args:
        first: a type.
        second: another one.
        numbers: whether nothing but the number counts: then integers, floats and decimals go
            together as Float64.

    Example:
        >>> common(pl.Int8(), pl.Int32()), common(pl.UInt8(), pl.Int8())
        (Int32, Int16)
        >>> common(pl.Int64(), pl.String()) is None
        True
    """
    first, second = normal(first), normal(second)
    if first == second or isinstance(second, pl.Null):
        return first
    if isinstance(first, pl.Null):
        return second
    if isinstance(first, pl.List) and isinstance(second, pl.List):
        item = common(first.inner, second.inner, numbers=numbers)  # type: ignore[arg-type]
        return None if item is None else pl.List(item)
    families = {family(first), family(second)}
    if families == {"int"}:
        return _common_integer(first, second)
    if first.is_float() and second.is_float():
        return pl.Float64()
    if isinstance(first, pl.Decimal) and isinstance(second, pl.Decimal):
        same = first.scale == second.scale
        return _longer(first, second) if same else pl.Float64() if numbers else None
    if families <= {"int", "float"}:
        return pl.Float64() if numbers else None
    return _common_time(first, second)


def _common_integer(first: pl.DataType, second: pl.DataType) -> pl.DataType:
    if isinstance(first, pl.Boolean):
        return second
    if isinstance(second, pl.Boolean):
        return first
    if isinstance(first, pl.Decimal) and isinstance(second, pl.Decimal):
        return _longer(first, second)
    if _is_whole(first) or _is_whole(second):
        return pl.Int64()
    return _wider(first, second)


def _longer(first: pl.Decimal, second: pl.Decimal) -> pl.Decimal:
    return first if first.precision > second.precision else second


def _common_time(first: pl.DataType, second: pl.DataType) -> pl.DataType | None:
    if isinstance(first, pl.Duration) and isinstance(second, pl.Duration):
        return pl.Duration(_finer(first.time_unit, second.time_unit))
    if not (isinstance(first, pl.Datetime) and isinstance(second, pl.Datetime)):
        return None
    zones = {first.time_zone, second.time_zone}
    if len(zones) == 2 and None in zones:
        return None
    zone = first.time_zone if len(zones) == 1 else "UTC"
    return pl.Datetime(_finer(first.time_unit, second.time_unit), zone)


def _finer(first: TimeUnit, second: TimeUnit) -> TimeUnit:
    return first if _UNITS.index(first) > _UNITS.index(second) else second


def _is_whole(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Decimal) and dtype.scale == 0


TimeUnit = Literal["ms", "us", "ns"]
_UNITS: tuple[TimeUnit, ...] = ("ms", "us", "ns")
_SIGNED = (pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64())
_UNSIGNED = (pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64())


def _wider(first: pl.DataType, second: pl.DataType) -> pl.DataType:
    if first.is_signed_integer() == second.is_signed_integer():
        order = _SIGNED if first.is_signed_integer() else _UNSIGNED
        return max(first, second, key=order.index)
    signed, unsigned = (first, second) if first.is_signed_integer() else (second, first)
    return _SIGNED[min(3, max(_SIGNED.index(signed), _UNSIGNED.index(unsigned) + 1))]
