"""What a column of an unknown log is: an outcome, a time, a user, a feature, or nothing to use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recmtl.data.dtypes import family, inner, is_list
from recmtl.data.lists import flatten

__all__ = ["Column", "is_binary", "look_at", "tokens"]

_CLICKS = frozenset({"click", "clicked", "clicks", "clk"})
_CONVERSIONS = frozenset(
    {"conversion", "converted", "convert", "conv", "purchase", "purchased", "buy", "bought"}
    | {"order", "ordered", "pay", "paid", "install", "installed", "sale", "sold", "transaction"}
)
_OUTCOMES = frozenset(
    {"like", "liked", "follow", "followed", "comment", "commented", "share", "shared", "forward"}
    | {"favorite", "favourite", "favorited", "fav", "cart", "collect", "collected", "subscribe"}
    | {"subscribed", "finish", "finished", "complete", "completed", "hate", "dislike", "view"}
    | {"enter", "label", "target", "outcome"}
)
_TIMES = frozenset({"ts", "time", "timestamp", "datetime", "date", "dt"})
_USERS = frozenset({"user", "uid", "userid", "member", "visitor", "customer", "viewer"})
_WEIGHTS = frozenset({"sample_weight", "weight", "instance_weight", "sampleweight"})
_IDS = frozenset(
    {"id", "ids", "uid", "iid", "code", "category", "categories", "cat", "cate", "brand", "shop"}
    | {"seller", "type", "kind", "class", "city", "region", "country", "device", "os", "tab"}
    | {"channel", "campaign", "creative", "slot", "position", "gender", "sex", "zip", "author"}
    | {"item", "video", "product", "sku", "page", "hour", "weekday", "day", "month", "userid"}
    | {"itemid", "index", "node", "tag", "tags", "key", "hash", "level"}
)
_HISTORIES = frozenset({"history", "hist", "seq", "sequence", "recent", "last", "past", "clicked"})
_BAG_WEIGHTS = frozenset({"weight", "weights"})
_FEWEST_COMPONENTS, _MOST_COMPONENTS = 8, 4096
_MANY = 100
_MOST_CLASSES = 20
_INT64_END = 2.0**63


def tokens(name: str) -> frozenset[str]:
    """The words of a column's name, in lower case, digits aside.

    Example:
        >>> sorted(tokens("isClicked_2")), sorted(tokens("user-id"))
        (['clicked', 'is'], ['id', 'user'])
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return frozenset(word for word in re.split(r"[^a-z]+", split) if word)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column, and what a sample of its rows says."""

    name: str
    dtype: pl.DataType
    num_rows: int
    """Rows of the sample."""
    num_values: int
    """Different values (of a list column: different items), nulls aside."""
    null_share: float
    low: float | None = None
    """Smallest value of a number."""
    middle: float | None = None
    """Median of a number."""
    high: float | None = None
    """Largest value of a number."""
    vector_dim: int | None = None
    """Length of all lists of finite numbers with places, where it is a vector's."""

    @property
    def words(self) -> frozenset[str]:
        """The words of the name."""
        return tokens(self.name)

    @property
    def is_list(self) -> bool:
        """Whether a row holds a list of single values."""
        return is_list(self.dtype) and family(inner(self.dtype)) != "other"

    @property
    def holds_ids(self) -> bool:
        """Whether values (or items) are integers or strings."""
        return family(inner(self.dtype)) in ("int", "string")

    @property
    def is_click(self) -> bool:
        """Whether the name says: clicked."""
        return bool(self.words & _CLICKS)

    @property
    def is_conversion(self) -> bool:
        """Whether the name says: bought."""
        return bool(self.words & _CONVERSIONS) and not self.is_click

    @property
    def is_outcome(self) -> bool:
        """Whether the name is that of an outcome."""
        return bool(self.words & (_CLICKS | _CONVERSIONS | _OUTCOMES))

    @property
    def is_time(self) -> bool:
        """Whether it says when."""
        if isinstance(self.dtype, pl.Datetime | pl.Date):
            return True
        is_number = family(self.dtype) in ("int", "float")
        return is_number and bool(self.words & _TIMES) and self.num_values > _MANY

    @property
    def is_user(self) -> bool:
        """Whether it says who."""
        named = self.words & _USERS and (self.words & {"id", "key", "uid"} or len(self.words) == 1)
        return self.holds_ids and not is_list(self.dtype) and bool(named)

    @property
    def is_weight(self) -> bool:
        """Whether it is a sample weight."""
        return self.name.lower() in _WEIGHTS and family(self.dtype) in ("int", "float")

    @property
    def is_history(self) -> bool:
        """Whether a list is in the order of time, by its name."""
        return self.is_list and self.holds_ids and bool(self.words & _HISTORIES)

    @property
    def is_category(self) -> bool:
        """Whether single values are names of things rather than amounts."""
        kind = family(self.dtype)
        if kind != "int":
            return kind == "string"
        return self.num_values <= _MANY or bool(self.words & _IDS) or self.is_user

    @property
    def num_classes(self) -> int | None:
        """How many classes a label of 0, 1, 2, ... has; None for what looks like an amount."""
        is_whole = family(self.dtype) == "int" and self.low == 0 and self.high is not None
        n = self.num_values
        return n if is_whole and 2 < n <= _MOST_CLASSES and self.high == n - 1 else None

    @property
    def useless(self) -> str | None:
        """Why it can be no feature, in words; None for one that can."""
        if not self.name.strip():
            return "a column without a name, as of a written index"
        if self.dtype == pl.UInt64 and (self.high or 0.0) >= _INT64_END:
            return "integers of 2^63 and more: write them as strings, or as Int64"
        if self.null_share == 1.0:
            return "null in every row of the sample"
        if self.dtype.is_temporal():
            return f"{self.dtype}: a time is no feature by itself; derive hour or age from it"
        if family(inner(self.dtype)) == "other":
            return f"{self.dtype}: not a number, an id, or a list of ids"
        if self.is_list and not self.holds_ids and self.vector_dim is None:
            return f"{self.dtype}: lists of numbers weight the bag of another column (`weights`)"
        if self.num_values < 2 and not self.is_list:
            return "one value alone"
        if self.is_category and self.num_values > max(1_000, 0.9 * self.num_rows):
            return "another value in almost every row"
        return None


def look_at(column: pl.Series) -> Column:
    """What a sample says of a column."""
    dtype = column.dtype
    rows = max(len(column), 1)
    share = column.null_count() / rows
    values = column.drop_nulls()
    if (dim := _vector_dim(values)) is not None:
        return Column(
            name=column.name,
            dtype=dtype,
            num_rows=len(column),
            num_values=0,
            null_share=share,
            vector_dim=dim,
        )
    if is_list(dtype) and not inner(dtype).is_nested():
        values = values.explode(empty_as_null=False).drop_nulls()
    count = 0 if inner(dtype).is_nested() else values.n_unique()
    numbers: dict[str, Any] = {}
    if family(dtype) in ("int", "float") and len(values):
        plain = values.cast(pl.Float64).filter(values.cast(pl.Float64).is_finite())
        if len(plain):
            numbers = {"low": plain.min(), "middle": plain.median(), "high": plain.max()}
    return Column(
        name=column.name,
        dtype=dtype,
        num_rows=len(column),
        num_values=count,
        null_share=share,
        **numbers,
    )


def _vector_dim(lists: pl.Series) -> int | None:
    """The length of all lists, where they are vectors: finite numbers, and no weights of a bag."""
    item = inner(lists.dtype)
    if not is_list(lists.dtype) or not item.is_float() or tokens(lists.name) & _BAG_WEIGHTS:
        return None
    flat = flatten(lists)
    dim = int(flat.lengths.max(initial=0))
    is_one_length = dim == flat.lengths.min(initial=dim)
    if not is_one_length or not _FEWEST_COMPONENTS <= dim <= _MOST_COMPONENTS:
        return None
    numbers = flat.values.cast(pl.Float32).to_numpy()
    return dim if np.isfinite(numbers).all() else None


def is_binary(column: Column) -> bool:
    """Whether the column holds 0 and 1 and nothing else (nulls aside).

    Example:
        >>> is_binary(look_at(pl.Series("a", [0, 1, None]))), is_binary(look_at(pl.Series([1, 2])))
        (True, False)
    """
    if family(column.dtype) not in ("int", "float"):
        return False
    return (column.num_values, column.low, column.high) == (2, 0.0, 1.0)
