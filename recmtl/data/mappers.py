"""How a value becomes a row of its table: by a vocabulary, a hash or buckets.

Row 0 is for nulls and unknown values.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.dtypes import family, normal
from recmtl.data.hashing import splitmix64, xxh3_64
from recmtl.data.vocab import Vocabulary, as_int64, filled
from recmtl.errors import DataError

__all__ = [
    "BucketMapper",
    "HashMapper",
    "IdFamily",
    "Mapper",
    "RowCounter",
    "VocabMapper",
    "as_ids",
    "quantile_borders",
]

IdFamily = Literal["int", "string", "number"]
"""Of what family the values of a table are: integers, strings, or (buckets) numbers of any type."""


class Mapper(Protocol):
    """Values to rows."""

    @property
    def family(self) -> IdFamily:
        """The family that values must be of; recorded when fitted, required ever after."""

    @property
    def rows(self) -> int:
        """Rows of the table, row 0 included; every id is below it."""

    def __call__(self, values: pl.Series) -> NDArray[np.int64]:
        """The row of each value."""


class RowCounter:
    """How often each row of a table is looked up.

    Example:
        >>> counter = RowCounter(BucketMapper(np.array([18.0, 25.0])))
        >>> counter.add(pl.Series([17, 18, 30, None, 40]))
        >>> counter.result()
        array([1, 1, 1, 2], dtype=uint32)
    """

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper
        self._counts = np.zeros(mapper.rows, np.uint32)

    def add(self, values: pl.Series, times: NDArray[np.int64] | None = None) -> None:
        """Count the rows of values, each once or as often as `times` says."""
        counts = np.uint32(1) if times is None else times.astype(np.uint32)
        np.add.at(self._counts, self.mapper(values), counts)

    def result(self) -> NDArray[np.uint32]:
        """The counts so far."""
        return self._counts


class VocabMapper:
    """Rows by a vocabulary."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab

    @property
    def family(self) -> IdFamily:
        """Strings or integers."""
        return "string" if self.vocab.ids.dtype == pl.String else "int"

    @property
    def rows(self) -> int:
        """One row an id, and row 0."""
        return self.vocab.rows

    def __call__(self, values: pl.Series) -> NDArray[np.int64]:
        """The row of each id; 0 for unknown ones and nulls."""
        return self.vocab.lookup(as_ids(values, self.family))


class HashMapper:
    """Rows by a stable hash: 1 + splitmix64(integer) mod `size`, 1 + xxh3-64(string) mod `size`.

    Example:
        >>> HashMapper(1000, "int")(pl.Series([0, None]))
        array([536,   0])
    """

    def __init__(self, size: int, family: IdFamily) -> None:
        self.size = size
        self.family: IdFamily = family

    @property
    def rows(self) -> int:
        """`size` rows, and row 0."""
        return self.size + 1

    def __call__(self, values: pl.Series) -> NDArray[np.int64]:
        """The row of each value; 0 for nulls."""
        ids = as_ids(values, self.family)
        hashes = xxh3_64(ids) if self.family == "string" else splitmix64(filled(ids))
        # The remainder by a division that is vectorised, in place: a third of the time of `%`.
        size = np.uint64(self.size)
        remainders = hashes // size
        remainders *= size
        np.subtract(hashes, remainders, out=remainders)
        remainders += np.uint64(1)
        rows = remainders.view(np.int64)
        if ids.null_count():
            rows[ids.is_null().to_numpy()] = 0
        return rows


class BucketMapper:
    """Rows by the borders of a number's buckets; a value equal to a border goes right.

    Example:
        >>> BucketMapper(np.array([18.0, 25.0]))(pl.Series([17, 18, 30, None]))
        array([1, 2, 3, 0])
    """

    family: IdFamily = "number"

    def __init__(self, borders: NDArray[np.float64]) -> None:
        self.borders = borders

    @property
    def rows(self) -> int:
        """One row a bucket, and row 0."""
        return len(self.borders) + 2

    def __call__(self, values: pl.Series) -> NDArray[np.int64]:
        """The row of each number; 0 for null and NaN."""
        numbers = values.cast(pl.Float64).to_numpy()  # nulls become NaN
        rows = np.searchsorted(self.borders, numbers, side="right") + 1
        rows[np.isnan(numbers)] = 0
        return rows


def quantile_borders(sample: NDArray[np.float64], num_buckets: int) -> NDArray[np.float64]:
    """Borders of at most `num_buckets` about equally full buckets.

    A very frequent value can be the border of several; they become one.

    Example:
        >>> quantile_borders(np.arange(8.0), 4)
        array([2., 4., 6.])
    """
    numbers = np.sort(sample[~np.isnan(sample)])
    if not len(numbers):
        return np.empty(0)
    places = -(-np.arange(1, num_buckets) * len(numbers) // num_buckets)
    borders = np.unique(numbers[np.minimum(places, len(numbers) - 1)])
    higher: NDArray[np.float64] = borders[borders > numbers[0]]
    return higher


def as_ids(values: pl.Series, expected: IdFamily) -> pl.Series:
    """Values as Int64 or String, whichever their table was fitted on.

    Raises:
        DataError: values of the other family.
    """
    if not fits(values.dtype, expected):
        raise DataError(wrong_family(values.name, values.dtype, expected))
    if expected == "string" or family(values.dtype) == "null":
        return values.cast(pl.String if expected == "string" else pl.Int64)
    return as_int64(values)


def fits(dtype: pl.DataType, expected: IdFamily) -> bool:
    """Whether values of a type are of the family that a table was fitted on."""
    found = family(dtype)
    return found in {expected, "null"} or (expected == "number" and found in {"int", "float"})


def wrong_family(column: str, dtype: pl.DataType, expected: IdFamily) -> str:
    """The sentence about a column whose values are not of the family its table was fitted on."""
    words = {"int": "integers", "string": "strings", "number": "numbers"}[expected]
    cast = {"int": "Int64", "string": "String", "number": "Float64"}[expected]
    return f"column `{column}` is {normal(dtype)}, but it was fitted on {words}. Cast it to {cast}."
