"""Vocabularies: ids that were seen in training rows get a table row each, all others row 0."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.hashing import splitmix64, xxh3_64
from recmtl.errors import DataError

__all__ = ["VocabCounter", "Vocabulary", "as_int64", "filled", "num_beyond_int64"]

_BLOCK = 1 << 16
_SHARES = 64
_LARGE = 1 << 17  # from so many ids on, counts are kept in shares
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Vocabulary:
    """Ids in the order of their rows 1, 2, ...: by descending count, equal counts by value.

    One that grew has its earlier ids first, and then those that came, in this order.

    Attributes:
        ids: Int64 or String, without nulls and duplicates.
        counts: number of training rows of each id.

    Example:
        >>> vocab = Vocabulary(pl.Series(["b", "a"]), pl.Series([7, 3]))
        >>> vocab.lookup(pl.Series(["a", "z", None, "b"])), vocab.rows
        (array([2, 0, 0, 1]), 3)
    """

    def __init__(self, ids: pl.Series, counts: pl.Series) -> None:
        self.ids = ids
        self.counts = counts
        self._index = _index(_keys(ids))

    @property
    def rows(self) -> int:
        """Rows of the table, row 0 included."""
        return len(self.ids) + 1

    def lookup(self, values: pl.Series) -> NDArray[np.int64]:
        """The row of each value (Int64 or String, like `ids`); 0 for nulls and unknown ids."""
        rows = self._index.lookup(_keys(values))
        if values.null_count():
            rows[values.is_null().to_numpy()] = 0
        return rows


class VocabCounter:
    """Counts ids piece by piece, then makes the vocabulary.

    What was counted is kept in shares by the ids' hashes once it is large, and new counts are added
    share by share: adding up takes several times the memory of what is added.

    Args:
        min_count: ids seen less often are left out.
        pending_ids: counts of single pieces that are gathered before they are added up.

    Attributes:
        rare: the ids that `finish` left out, ascending, with their counts.
    """

    def __init__(self, min_count: int, *, pending_ids: int = 1 << 20) -> None:
        self.min_count, self.pending_ids = min_count, pending_ids
        self.rare = pl.DataFrame()
        self._pending: list[pl.DataFrame] = []
        self._shares: list[pl.DataFrame] = []

    def add(self, values: pl.Series) -> None:
        """Count the values of one piece (Int64 or String; nulls are not counted)."""
        self.add_counts(_counted(values.drop_nulls()))

    def add_counts(self, counts: pl.DataFrame) -> None:
        """Add what was counted elsewhere: `id` (Int64 or String) and `count` (Int64)."""
        self._pending.append(counts)
        if _num_rows(self._pending) > max(self.pending_ids, _num_rows(self._shares) // 2):
            self._merge()

    @property
    def num_bytes(self) -> int:
        """Memory of the counts so far."""
        return sum(int(part.estimated_size()) for part in (*self._pending, *self._shares))

    @property
    def num_ids(self) -> int:
        """Different ids so far."""
        self._merge()
        return _num_rows(self._shares)

    def finish(self, before: Vocabulary | None = None) -> Vocabulary:
        """The vocabulary of all that was added; the counts are given back.

        Args:
            before: a vocabulary that grows: its ids keep their rows, whatever was counted is added
                to their counts, and ids that are new follow.
        """
        self._merge()
        kept: list[pl.DataFrame] = []
        rare: list[pl.DataFrame] = []
        known_counts = None if before is None else before.counts.to_numpy().copy()
        while self._shares:
            share = self._shares.pop()
            if before is not None and known_counts is not None:
                row = before.lookup(share["id"])
                known_counts[row[row > 0] - 1] += share["count"].to_numpy()[row > 0]
                share = share.filter(pl.Series(row == 0))
            is_kept = pl.col("count") >= self.min_count
            kept.append(share.filter(is_kept))
            rare.append(share.filter(~is_kept))
        self.rare = pl.concat(rare).sort("id")
        table = pl.concat(kept)
        by_id = table["id"].arg_sort().to_numpy()
        by_count = np.argsort(-table["count"].to_numpy()[by_id], kind="stable")
        table = table[by_id[by_count]]
        if before is None:
            return Vocabulary(table["id"], table["count"])
        return Vocabulary(
            pl.concat([before.ids, table["id"]]),
            pl.concat([pl.Series("count", known_counts), table["count"]]),
        )

    def _merge(self) -> None:
        if not self._pending:
            return
        fresh, self._pending = pl.concat(self._pending), []
        if len(self._shares) < 2 and _num_rows(self._shares) + len(fresh) > _LARGE:
            fresh = pl.concat([*self._shares, fresh])
            self._shares = [fresh.clear()] * _SHARES
        if len(self._shares) < 2:
            self._shares = [_added([*self._shares, fresh])]
            return
        share = splitmix64(_keys(fresh["id"])) % np.uint64(_SHARES)
        order = np.argsort(share, kind="stable")
        ends = np.searchsorted(share[order], np.arange(1, _SHARES + 1))
        for number, rows in enumerate(np.split(order, ends[:-1])):
            self._shares[number] = _added([self._shares[number], fresh[rows]])


def _counted(values: pl.Series) -> pl.DataFrame:
    """How often each value comes; of integers that lie close together, quicker than by hashing."""
    if values.dtype == pl.Int64 and len(values):
        numbers = values.to_numpy()
        low, high = int(numbers.min()), int(numbers.max())
        if high - low < 8 * len(numbers):
            counts = np.bincount(numbers - low)
            found = np.flatnonzero(counts)
            return pl.DataFrame({"id": found + low, "count": counts[found]})
    counted = values.alias("id").value_counts(name="count")
    return counted.with_columns(pl.col("count").cast(pl.Int64))


def _added(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).group_by("id").agg(pl.col("count").sum())


def _num_rows(parts: list[pl.DataFrame]) -> int:
    return sum(len(part) for part in parts)


def as_int64(values: pl.Series) -> pl.Series:
    """Integers or booleans as Int64.

    Raises:
        DataError: an unsigned value of 2^63 or more.
    """
    lost = num_beyond_int64(values)
    if lost:
        raise DataError(
            f"column `{values.name}`: {lost} values do not fit into Int64. Write them as strings."
        )
    return values.cast(pl.Int64)


def num_beyond_int64(values: pl.Series) -> int:
    """How many values are no Int64."""
    return values.cast(pl.Int64, strict=False).null_count() - values.null_count()


def _keys(values: pl.Series) -> NDArray[np.int64]:
    """64 bits that stand for each value; those of a null mean nothing.

    Strings go by their xxh3-64: two of ten million strings share one with a probability of 3e-6.
    """
    if values.dtype == pl.String:
        return xxh3_64(values).view(np.int64)
    return filled(values)


def filled(values: pl.Series) -> NDArray[np.int64]:
    """Int64 values, 0 for nulls; not to be written to."""
    return (values.fill_null(0) if values.null_count() else values).to_numpy()


def _index(keys: NDArray[np.int64]) -> _Direct | _Hashed:
    if not len(keys):
        return _Direct(keys, 0, 0)
    low, high = int(keys.min()), int(keys.max())
    if high - low < max(8 * len(keys), 1 << 20):  # no larger than a hash
        return _Direct(keys, low, high - low + 1)
    return _Hashed(keys)


class _Direct:
    """One entry for each integer from the lowest to the highest id, and one for all others."""

    def __init__(self, keys: NDArray[np.int64], low: int, span: int) -> None:
        self.low, self.span = np.int64(low), np.uint64(span)
        self.rows = np.zeros(span + 1, np.int32 if len(keys) < 2**31 else np.int64)
        self.rows[keys - self.low] = np.arange(1, len(keys) + 1)

    def lookup(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        # Below `low` the difference wraps to a huge unsigned number: one comparison for both ends.
        offsets = (keys - self.low).view(np.uint64)
        np.minimum(offsets, self.span, out=offsets)
        return self.rows.take(offsets.view(np.int64)).astype(np.int64, copy=False)


class _Hashed:
    """An open-addressed hash table, at most half full, probed for many keys at once."""

    def __init__(self, keys: NDArray[np.int64]) -> None:
        bits = max(int(2 * len(keys) - 1).bit_length(), 4)
        self.shift, self.mask = np.uint64(64 - bits), (1 << bits) - 1
        self.keys = np.zeros(1 << bits, np.int64)
        self.rows = np.zeros(1 << bits, np.int64)  # 0: free
        todo = np.arange(len(keys))
        slots = self._slots(keys)
        while len(todo):
            free = self.rows[slots] == 0
            self.rows[slots[free]] = todo[free] + 1  # of several for one slot, the last one stays
            lost = self.rows[slots] != todo + 1
            todo, slots = todo[lost], (slots[lost] + 1) & self.mask
        taken = np.flatnonzero(self.rows)
        self.keys[taken] = keys[self.rows[taken] - 1]

    def lookup(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.empty(len(keys), np.int64)
        for start in range(0, len(keys), _BLOCK):
            self._probe(keys[start : start + _BLOCK], out[start : start + _BLOCK])
        return out

    def _probe(self, keys: NDArray[np.int64], out: NDArray[np.int64]) -> None:
        slots = self._slots(keys)
        rows = self.rows[slots]
        missed = self.keys[slots] != keys
        out[:] = rows
        out[missed] = 0
        todo = np.flatnonzero(missed & (rows != 0))
        slots = slots[todo]
        while len(todo):
            slots = (slots + 1) & self.mask
            rows = self.rows[slots]
            hit = self.keys[slots] == keys[todo]
            out[todo[hit]] = rows[hit]
            more = ~hit & (rows != 0)
            todo, slots = todo[more], slots[more]

    def _slots(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        return ((keys.view(np.uint64) * _MULTIPLIER) >> self.shift).view(np.int64)
