"""Columns whose values are compared and named: groups and segments."""

from __future__ import annotations

import polars as pl

from recmtl.errors import DataError

__all__ = ["as_values", "is_value"]


def is_value(dtype: pl.DataType) -> bool:
    """Whether the values of a type can be groups or segments: no lists, fields or bytes.

    Example:
        >>> is_value(pl.Date()), is_value(pl.List(pl.Int64()))
        (True, False)
    """
    return not (dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object))


def as_values(column: pl.Series) -> pl.Series:
    """A column as integers, floats, booleans or strings; equal values stay equal, others not.

    Times become ISO 8601, to the last digit that they have, and decimals their digits.

    Raises:
        DataError: the column has lists, fields or bytes.

    Example:
        >>> from datetime import date
        >>> as_values(pl.Series([date(2024, 1, 1)])).to_list()
        ['2024-01-01']
    """
    dtype = column.dtype
    if not is_value(dtype):
        raise DataError(
            f"column `{column.name}` is {dtype}, but groups and segments are single values. Choose "
            "another column."
        )
    if isinstance(dtype, pl.Duration):
        return column.dt.to_string("iso")
    if isinstance(dtype, pl.Datetime | pl.Time):  # a value's text must not depend on the others
        text = column.dt.to_string("iso").str.replace(r"(\.\d*?)0+([+-]|$)", "${1}${2}")
        return text.str.replace(r"\.([+-]|$)", "${1}")
    if dtype.is_temporal() or dtype.is_decimal() or isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    return column.cast(pl.Boolean) if isinstance(dtype, pl.Null) else column
