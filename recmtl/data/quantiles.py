"""The sample that quantile buckets are fitted on: within a bound, whatever the log is."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.dtypes import is_list
from recmtl.data.hashing import permutation, splitmix64
from recmtl.data.lists import flatten

__all__ = ["QuantileSample"]


class QuantileSample:
    """About `size` rows of a log, chosen by the hash of their numbers, piece by piece.

    Where lists hold many values, the share of rows is halved until at most twice as many values are
    left; so the sample depends on the log alone, not on its pieces.

    Args:
        num_rows: rows of the log.
        size: values that are kept.
    """

    def __init__(self, num_rows: int, size: int) -> None:
        self.size = size
        self._below = 2**64 - 1 if num_rows <= size else 2**64 * size // num_rows
        self._values: list[NDArray[np.float64]] = []
        self._hashes: list[NDArray[np.uint64]] = []
        """Of the values' rows, for lists alone."""
        self._num_values = 0

    def add(self, column: pl.Series, start: int) -> None:
        """Take the rows `start`, ... in: numbers, or lists of numbers."""
        hashes = splitmix64(np.arange(start, start + len(column)))
        chosen = hashes < np.uint64(self._below)
        if not chosen.all():
            column, hashes = column.filter(pl.Series(chosen)), hashes[chosen]
        values = column
        if is_list(column.dtype):
            flat = flatten(column)
            values = flat.values
            self._hashes.append(np.repeat(hashes, flat.lengths))
        self._values.append(values.cast(pl.Float64).to_numpy())
        self._num_values += len(values)
        while self._hashes and self._num_values > 2 * self.size:
            self._halve()

    def finish(self) -> NDArray[np.float64]:
        """The sample; it is given back."""
        sample = np.concatenate(self._values)
        self._values, self._hashes = [], []
        if len(sample) > self.size:
            sample = sample[permutation(len(sample), 0)[: self.size]]
        return sample

    def _halve(self) -> None:
        self._below //= 2
        kept = [hashes < np.uint64(self._below) for hashes in self._hashes]
        self._values = [values[keep] for values, keep in zip(self._values, kept, strict=True)]
        self._hashes = [hashes[keep] for hashes, keep in zip(self._hashes, kept, strict=True)]
        self._num_values = sum(map(len, self._values))
