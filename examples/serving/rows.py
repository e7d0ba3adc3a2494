"""What a row must have: JSON is checked by it, described by it, and turned into a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import polars as pl
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from recmtl import Encoders

__all__ = ["Column", "RowFormat"]

_INTEGER = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_FINITE = Annotated[float, Field(allow_inf_nan=False)]


def _whole(text: str) -> str:
    """Refuse half a character, which JSON can write: encoding it is a ValueError."""
    text.encode()
    return text


_STRING = Annotated[str, AfterValidator(_whole)]


class Column(NamedTuple):
    """A column that the scorer reads."""

    name: str
    type: Any
    """What its values are, as an annotation."""
    words: str
    """The same for people."""
    dtype: pl.DataType
    neutral: Any
    """A value that no rule forbids."""


class RowFormat:
    """The columns of a row, as the features of a run are.

    Attributes:
        columns: by name.
        model: a row of JSON. Columns that are missing or unknown, and values of another type, are
            errors.

    Args:
        encoders: those of the run, which know what its features were fitted on.
    """

    def __init__(self, encoders: Encoders) -> None:
        """Read the features."""
        self.columns = {column.name: column for column in _columns(encoders)}
        # A column may be called anything, an attribute of a model may not.
        fields: dict[str, Any] = {
            f"c{i}": (column.type, Field(alias=name, description=column.words))
            for i, (name, column) in enumerate(self.columns.items())
        }
        config = ConfigDict(strict=True, extra="forbid")
        self.model: type[BaseModel] = create_model("Row", __config__=config, **fields)

    def frame(self, rows: Sequence[BaseModel]) -> pl.DataFrame:
        """Rows that were checked, as a frame."""
        values = zip(*(vars(row).values() for row in rows), strict=True)
        return pl.DataFrame(
            [
                pl.Series(column.name, of_rows, column.dtype)
                for column, of_rows in zip(self.columns.values(), values, strict=True)
            ]
        )

    def neutral(self) -> pl.DataFrame:
        """A row without a meaning, to try a scorer with."""
        columns = self.columns.values()
        return pl.DataFrame([pl.Series(c.name, [c.neutral], c.dtype) for c in columns])


def _columns(encoders: Encoders) -> Iterator[Column]:
    spec = encoders.spec
    for dense in spec.dense:
        yield _single(dense.name, "number", null=dense.fill is not None)
    for feature in (*spec.sparse, *spec.sequences):
        family, null = encoders.families[spec.table_of(feature)], feature.nulls != "error"
        is_list = feature in spec.sequences or feature.name in encoders.bags
        make = _list if is_list else _single
        yield make(feature.name, family, null=null)
    for vector in spec.vectors:
        yield _vector(vector.name, vector.dim, null=vector.nulls != "error")
    names = {feature.name for feature in spec.features}
    weights = {feature.weights for feature in spec.sparse if feature.weights is not None}
    for name in sorted(weights - names):
        items = list[_FINITE]
        yield Column(name, items | None, "a list of numbers or null", pl.List(pl.Float64()), [])


def _single(name: str, family: str, *, null: bool) -> Column:
    of_one, word, dtype, neutral = _of(family)
    article = "an" if word == "integer" else "a"
    return _allowing(Column(name, of_one, f"{article} {word}", dtype, neutral), null=null)


def _list(name: str, family: str, *, null: bool) -> Column:
    of_one, word, dtype, _ = _of(family)
    items = list[of_one | None] if null else list[of_one]
    return _allowing(Column(name, items, f"a list of {word}s", pl.List(dtype), []), null=null)


def _vector(name: str, dim: int, *, null: bool) -> Column:
    items = Annotated[list[_FINITE], Field(min_length=dim, max_length=dim)]
    dtype, words = pl.List(pl.Float64()), f"a list of {dim} finite numbers"
    return _allowing(Column(name, items, words, dtype, [0.0] * dim), null=null)


def _of(family: str) -> tuple[Any, str, pl.DataType, Any]:
    """Annotation, word, type and a value of what a table or a number was fitted on."""
    if family == "int":
        return _INTEGER, "integer", pl.Int64(), 0
    if family == "string":
        return _STRING, "string", pl.String(), ""
    return float, "number", pl.Float64(), 0.0


def _allowing(column: Column, *, null: bool) -> Column:
    if not null:
        return column
    return column._replace(type=column.type | None, words=f"{column.words} or null")
