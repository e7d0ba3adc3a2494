"""Rows in the types that users have: columns into polars, scores back in the type of the rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from recmtl._checks import suggest
from recmtl.data.arrow import to_arrow
from recmtl.errors import DataError, SpecError

__all__ = ["beside", "column_names", "is_rows", "require_columns", "to_polars"]


def is_rows(value: Any) -> bool:
    """Whether a value is a polars or pandas frame, a pyarrow Table or RecordBatch, or a dict."""
    return isinstance(
        value, dict | pl.DataFrame | pl.LazyFrame | pa.Table | pa.RecordBatch
    ) or _is_pandas(value)


def column_names(rows: Any) -> list[str]:
    """The columns of rows.

    Raises:
        DataError: `rows` is of another type.
    """
    if not is_rows(rows):
        raise DataError(
            f"rows are a {type(rows).__name__}; expected a polars or pandas frame, a pyarrow Table "
            "or RecordBatch, or a dict of arrays."
        )
    if isinstance(rows, pa.Table | pa.RecordBatch):
        return list(rows.schema.names)
    if isinstance(rows, pl.DataFrame | pl.LazyFrame):
        return rows.collect_schema().names()
    return list(rows)


def to_polars(rows: Any, columns: Sequence[str]) -> pl.DataFrame:
    """Those of `columns` that `rows` has; the others are not looked at.

    Raises:
        DataError: `rows` is of another type, or the values of a column have several.
    """
    names = column_names(rows)
    wanted = [column for column in dict.fromkeys(columns) if column in names]
    try:
        if isinstance(rows, dict):
            return pl.DataFrame({column: _typed(column, rows[column]) for column in wanted})
        if isinstance(rows, pl.DataFrame):
            return pl.DataFrame([rows[name] for name in wanted])  # `select` would plan a query
        if isinstance(rows, pl.LazyFrame):
            return rows.select(wanted).collect()
        if _is_pandas(rows):
            return _without_types_of_nothing(pl.from_pandas(rows[wanted]))
        frame = pl.from_arrow(rows.select(wanted))
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:  # pyarrow's are these too
        raise DataError(f"rows: a column cannot be read: {error}") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def require_columns(
    names: Sequence[str],
    *,
    features: Sequence[str],
    keep: Sequence[str],
    scores: Collection[str],
    where: str = "",
) -> None:
    """Require the columns that are read and those to be kept, before scores stand beside them.

    Args:
        names: columns that there are.
        features: columns that features need.
        keep: columns to keep.
        scores: columns of scores.
        where: what has the columns, for messages.

    Raises:
        DataError: some are missing, or there more than once.
        SpecError: a column to keep has the name of a score.
    """
    clash = [column for column in keep if column in scores]
    if clash:
        raise SpecError(
            f"`keep`: a score column is called `{clash[0]}` too. Leave it out of `keep`."
        )
    roles = dict.fromkeys(features, "feature")
    roles = dict.fromkeys(keep, "to be kept") | roles
    problems = [
        f"{where}column `{column}` ({role}) is missing.{suggest(column, names)}"
        for column, role in roles.items()
        if column not in names
    ]
    problems += [
        f"{where}column `{column}` ({role}) is there {names.count(column)} times. Leave one."
        for column, role in roles.items()
        if names.count(column) > 1
    ]
    if problems:
        raise DataError.all_of(problems)


def beside(rows: Any, keep: Sequence[str], scores: Mapping[str, NDArray[np.float32]]) -> Any:
    """The columns `keep` of `rows`, untouched, and the scores, in the type of `rows`.

    Scores of two dimensions become fixed-size lists, in pandas an array for each row. A pandas
    frame keeps its index: in pandas, columns meet by it.
    """
    if isinstance(rows, dict):
        height = len(next(iter(scores.values())))
        for column in keep:
            if (values := len(rows[column])) != height:
                raise DataError(
                    f"rows: column `{column}` (to be kept) has {values} values for {height} rows."
                )
        return {column: rows[column] for column in keep} | dict(scores)
    if isinstance(rows, pl.DataFrame):
        kept = [rows[column] for column in keep]
        return pl.DataFrame([*kept, *(_series(name, of) for name, of in scores.items())])
    if _is_pandas(rows):
        lists = {name: of if of.ndim == 1 else list(of) for name, of in scores.items()}
        return rows[list(keep)].assign(**lists)
    kept = rows.select(list(keep))
    arrays = {name: to_arrow(of) for name, of in scores.items()}
    fields = [*kept.schema, *(pa.field(name, array.type) for name, array in arrays.items())]
    columns = [*kept.columns, *arrays.values()]
    return type(rows).from_arrays(columns, schema=pa.schema(fields))


def _series(name: str, scores: NDArray[np.float32]) -> pl.Series:
    if scores.ndim == 1:
        return pl.Series(name, scores)
    return pl.Series(name, np.ascontiguousarray(scores), pl.Array(pl.Float32, scores.shape[1]))


def _is_pandas(value: Any) -> bool:
    """Whether it is a pandas frame; pandas is not imported for it."""
    return any(
        (base.__module__.split(".")[0], base.__name__) == ("pandas", "DataFrame")
        for base in type(value).__mro__
    )


def _without_types_of_nothing(frame: pl.DataFrame) -> pl.DataFrame:
    """A pandas column of nothing but None or NaN says nothing of its type."""
    empty = [of.name for of in frame if 0 < of.len() == of.null_count()]
    return frame.with_columns(pl.lit(None).alias(name) for name in empty)


def _typed(column: str, values: Any) -> Any:
    """An array of objects as a list, whose type polars finds; NaN is null there.

    Raises:
        DataError: it is one value, which would be repeated for all rows.
    """
    if isinstance(values, str | bytes | dict) or not hasattr(values, "__len__"):
        raise DataError(
            f"rows: column `{column}` is a single {type(values).__name__}; expected an array with "
            "a value for each row. Write one row as arrays of one value."
        )
    if isinstance(values, np.ndarray) and values.dtype == object:
        return [None if isinstance(v, float) and np.isnan(v) else v for v in values.tolist()]
    return values
