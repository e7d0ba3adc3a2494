"""Features: what the model may look at. One feature, one column of the log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recmtl.spec._base import StrictModel

__all__ = ["DenseFeature", "Feature", "SequenceFeature", "SparseFeature", "Vocab"]

Name = Annotated[str, Field(min_length=1)]


class Vocab(StrictModel):
    """Ids that were seen in training rows get a table row each; all others share row 0."""

    min_count: int = Field(default=1, ge=1)
    """An id needs this many training rows; rarer ones are out-of-vocabulary."""


class SparseFeature(StrictModel):
    """An id or a category, or a list of them: a row of an embedding table.

    Exactly one of `vocab`, `hash` and `buckets` says how a value becomes a row, unless `table` names another feature's
    table: then that feature says it.
    """

    name: Name
    """Column of the log; also the name of the feature's table unless `table` is given."""
    type: Literal["sparse"]
    vocab: Vocab | None = None
    """Fit a vocabulary on the training rows, for example `{min_count: 2}`; `{}` keeps every id."""
    hash: int | None = Field(default=None, ge=1)
    """Number of rows that a stable hash of the value (any integer or string) is spread over; row 0 comes on top."""
    buckets: tuple[float, ...] | int | None = None
    """Borders of a number's buckets (a value equal to a border goes right), or how many equally full buckets to fit."""
    dim: int | None = Field(default=None, ge=4, multiple_of=4)
    """Width of the embedding, a multiple of 4. Required unless `table` names another feature's table."""
    table: str | None = None
    """Name of the feature whose table, values and width this one shares."""
    pooling: Literal["sum", "mean"] = "sum"
    """How the vectors of a list column become one; `mean` divides by the length, or by the sum of `weights`."""
    weights: str | None = None
    """List column of the same lengths that weights each value of a list column."""
    nulls: Literal["oov", "error"] = "oov"
    """A null becomes the out-of-vocabulary row (an empty bag in a list column), or is an error."""


class SequenceFeature(StrictModel):
    """A list column in the order of time, oldest first, for example the items a user clicked before."""

    name: Name
    """List column of the log; also the name of its table unless `table` is given."""
    type: Literal["sequence"]
    table: str | None = None
    """Name of the sparse feature whose table, values and width the items share."""
    vocab: Vocab | None = None
    """As in a sparse feature, where the sequence has a table of its own."""
    hash: int | None = Field(default=None, ge=1)
    """As in a sparse feature, where the sequence has a table of its own."""
    buckets: tuple[float, ...] | int | None = None
    """As in a sparse feature, where the sequence has a table of its own (time gaps, prices)."""
    dim: int | None = Field(default=None, ge=4, multiple_of=4)
    """Width of the embedding. Required unless `table` is given."""
    max_len: int = Field(ge=1)
    """Longer lists are cut to this many items."""
    keep_last: bool = True
    """Cut to the last items (the most recent ones), or with `false` to the first."""
    behaviour: str = "history"
    """Sequences of one behaviour are aligned fields of one sequence (item, category, time gap)."""
    target: str | None = None
    """Feature whose value in this row the items are compared with (default: the single-valued feature of the table)."""
    nulls: Literal["oov", "error"] = "oov"
    """A null list is empty and a null item the out-of-vocabulary row, or either is an error."""


class DenseFeature(StrictModel):
    """A number."""

    name: Name
    """Column of the log."""
    type: Literal["dense"]
    transform: Literal["none", "log1p", "signed_log1p"] = "none"
    """Applied first: `log1p` (values must be at least 0) or `signed_log1p`, sign(x) · log(1 + |x|)."""
    normalize: Literal["none", "standard", "minmax"] = "standard"
    """`standard` subtracts the mean and divides by the standard deviation, `minmax` maps to [0, 1]; both are fitted on the
    training rows after the transform."""
    fill: float | None = 0.0
    """Raw value that replaces null, NaN and infinite ones before the transform; with `fill: null` such a value is an
    error."""


Feature = Annotated[SparseFeature | SequenceFeature | DenseFeature, Field(discriminator="type")]
