"""Features: what the model may look at. One feature, one column of the log."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from recmtl.spec._base import StrictModel
from recmtl.spec.data import Column

__all__ = ["DenseFeature", "Feature", "SequenceFeature", "SparseFeature", "VectorFeature", "Vocab"]

_MAX_ROWS = 2**40


def _buckets(value: Any) -> str:
    return "borders" if isinstance(value, list | tuple) else "count"


Buckets = Annotated[
    Annotated[tuple[float, ...], Tag("borders"), Field(min_length=1)]
    | Annotated[int, Tag("count"), Field(ge=2, le=_MAX_ROWS)],
    Discriminator(_buckets),
]
"""Borders of a number's buckets in rising order, or how many buckets to fit."""


def _require_rising(buckets: tuple[float, ...] | int | None) -> tuple[float, ...] | int | None:
    if isinstance(buckets, tuple):
        for low, high in itertools.pairwise(buckets):
            if not low < high:
                raise ValueError(f"must be borders in rising order, got {low:g} before {high:g}.")
    return buckets


class Vocab(StrictModel):
    """Ids that were seen in training rows get a table row each; all others share row 0."""

    min_count: int = Field(default=1, ge=1)
    """An id needs this many training rows; rarer ones are out-of-vocabulary."""


class SparseFeature(StrictModel):
    """An id or a category, or a list of them: a row of an embedding table.

    Exactly one of `vocab`, `hash` and `buckets` says how a value becomes a row, unless `table`
    names another feature's table: then that feature says it.
    """

    reserved: ClassVar[frozenset[str]] = frozenset({"role"})

    name: Column
    """Column of the log; also the name of the feature's table unless `table` is given."""
    type: Literal["sparse"]
    vocab: Vocab | None = None
    """Fit a vocabulary on the training rows, for example `{min_count: 2}`; `{}` keeps every id."""
    hash: int | None = Field(default=None, ge=1, le=_MAX_ROWS)
    """Number of rows that a stable hash of the value (any string, or integer below 2^63) is spread
    over; row 0 comes on top."""
    buckets: Buckets | None = None
    """Borders of a number's buckets (a value equal to a border goes right), or how many equally
    full buckets to fit."""
    dim: int | None = Field(default=None, ge=4, multiple_of=4)
    """Width of the embedding, a multiple of 4. Required unless `table` names another feature's
    table."""
    table: Column | None = None
    """Name of the feature whose table, values and width this one shares."""
    pooling: Literal["sum", "mean"] = "sum"
    """How the vectors of a list column become one; `mean` divides by the length, or by the sum of
    `weights`."""
    weights: Column | None = None
    """List column of the same lengths that weights each value of a list column."""
    nulls: Literal["oov", "error"] = "oov"
    """A null becomes the out-of-vocabulary row (an empty bag in a list column), or is an error."""

    @field_validator("buckets")
    @classmethod
    def _borders_rise(
        cls, buckets: tuple[float, ...] | int | None
    ) -> tuple[float, ...] | int | None:
        return _require_rising(buckets)


class SequenceFeature(StrictModel):
    """A list column in the order of time, oldest first: the items a user clicked before."""

    reserved: ClassVar[frozenset[str]] = frozenset({"role"})

    name: Column
    """List column of the log; also the name of its table unless `table` is given."""
    type: Literal["sequence"]
    table: Column | None = None
    """Name of the sparse feature whose table, values and width the items share."""
    vocab: Vocab | None = None
    """As in a sparse feature, where the sequence has a table of its own."""
    hash: int | None = Field(default=None, ge=1, le=_MAX_ROWS)
    """As in a sparse feature, where the sequence has a table of its own."""
    buckets: Buckets | None = None
    """As in a sparse feature, where the sequence has a table of its own (time gaps, prices)."""
    dim: int | None = Field(default=None, ge=4, multiple_of=4)
    """Width of the embedding. Required unless `table` is given."""
    max_len: int = Field(ge=1, le=100_000)
    """Longer lists are cut to this many items."""
    keep_last: bool = True
    """Cut to the last items (the most recent ones), or with `false` to the first."""
    behaviour: Column = "history"
    """Sequences of one behaviour are aligned fields of one sequence (item, category, time gap)."""
    target: Column | None = None
    """Feature whose value in this row the items are compared with (default: the single-valued
    feature of the table)."""
    nulls: Literal["oov", "error"] = "oov"
    """A null list is empty and a null item the out-of-vocabulary row, or either is an error."""

    @field_validator("buckets")
    @classmethod
    def _borders_rise(
        cls, buckets: tuple[float, ...] | int | None
    ) -> tuple[float, ...] | int | None:
        return _require_rising(buckets)


class DenseFeature(StrictModel):
    """A number."""

    reserved: ClassVar[frozenset[str]] = frozenset({"role"})

    name: Column
    """Column of the log."""
    type: Literal["dense"]
    transform: Literal["none", "log1p", "signed_log1p"] = "none"
    """Applied first: `log1p` (values must be at least 0) or `signed_log1p`, sign(x) · log(1 +
    |x|)."""
    normalize: Literal["none", "standard", "minmax"] = "standard"
    """`standard` subtracts the mean and divides by the standard deviation, `minmax` maps to [0, 1];
    both are fitted on the training rows after the transform."""
    fill: float | None = 0.0
    """Raw value that replaces null, NaN and infinite ones before the transform; with `fill: null`
    such a value is an error."""


class VectorFeature(StrictModel):
    """A vector that another model made, of an image or a text: a list column of numbers.

    Nulls, NaN and infinite numbers inside a list are errors.
    """

    reserved: ClassVar[frozenset[str]] = frozenset({"role"})

    name: Column
    """List column of the log."""
    type: Literal["vector"]
    dim: int = Field(ge=1, le=4096)
    """Length of every list; a list of another length is an error."""
    normalize: Literal["l2", "standard", "none"] = "l2"
    """`l2` divides a row's vector by its norm (a vector of zeros stays), `standard` subtracts each
    component's mean of the training rows and divides by its standard deviation."""
    nulls: Literal["zeros", "error"] = "zeros"
    """A null in place of a list becomes zeros, after `normalize`, or is an error."""


Feature = Annotated[
    SparseFeature | SequenceFeature | DenseFeature | VectorFeature, Field(discriminator="type")
]
