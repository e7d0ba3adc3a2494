"""Fitted: all that encoders know, and how often each row of a table was looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.dense import DenseScale
from recmtl.data.labels import Population, Rate
from recmtl.data.mappers import Mapper, VocabMapper
from recmtl.data.vectors import VectorScale
from recmtl.spec import Spec

__all__ = ["Fitted", "grown_counts"]

_MOST = np.iinfo(np.uint32).max


@dataclass(frozen=True, slots=True)
class Fitted:
    """All that encoders know; what is saved with a run."""

    spec: Spec
    mappers: dict[str, Mapper]
    """Table -> how a value becomes one of its rows, in the order of `spec.tables`."""
    counts: dict[str, Callable[[], NDArray[np.uint32]]]
    """Table -> how often its owner looks each row up in the training rows, where that was counted:
    all but vocabularies of single ids, which know it, and quantiles; all tables where encoders
    grew. Read from disk when they are asked for: scoring has no use for them."""
    scales: dict[str, DenseScale]
    """Dense feature -> its normalisation."""
    vector_scales: dict[str, VectorScale]
    """Vector feature with `normalize: standard` -> its normalisation."""
    single: tuple[str, ...]
    bags: tuple[str, ...]
    mean_lengths: dict[str, float]
    """List column -> mean number of items of a row, after the cut to `max_len`."""
    base_rates: dict[str, Rate]
    label_scales: dict[str, tuple[float, float]]
    populations: dict[str, Population]
    num_rows: int
    rare: dict[str, Callable[[], pl.DataFrame]] = field(default_factory=dict)
    """Table -> the ids that its vocabulary left out, with their counts (`id`, `count`), where it
    left any out: a later day may show them often enough."""

    def row_counts(self, table: str) -> NDArray[Any]:
        """How often each row of a table is looked up by the table's owner.

        Buckets whose borders are quantiles have even shares; the rest was counted (of a list-valued
        sparse feature's vocabulary, the rows that an id is in).
        """
        mapper = self.mappers[table]
        if table in self.counts:
            return self.counts[table]()
        if not isinstance(mapper, VocabMapper):
            return np.full(mapper.rows, self.num_items(table) // max(mapper.rows - 1, 1))
        known = mapper.vocab.counts.to_numpy()
        return np.concatenate([[max(self.num_items(table) - int(known.sum()), 0)], known])

    def num_items(self, table: str) -> int:
        """How many values the table's owner has in the training rows."""
        return round(self.num_rows * self.mean_lengths.get(table, 1.0))


def grown_counts(before: Fitted, today: Fitted) -> dict[str, Callable[[], NDArray[np.uint32]]]:
    """How often each row of each table was looked up, earlier and today.

    Args:
        before: what was fitted on earlier rows.
        today: what grew out of it: the counts of its vocabularies are those of all days, all others
            today's.
    """
    counts: dict[str, Callable[[], NDArray[np.uint32]]] = {}
    for table, mapper in today.mappers.items():
        earlier = before.row_counts(table).astype(np.uint64)
        total = np.zeros(mapper.rows, np.uint64)
        if table in today.counts:
            total[: len(earlier)] = earlier
            total += today.counts[table]()
        else:
            assert isinstance(mapper, VocabMapper)
            total[1:] = mapper.vocab.counts.to_numpy()
            num_items = int(earlier.sum()) + today.num_items(table)
            total[0] = max(num_items - int(total[1:].sum()), 0)
        counts[table] = np.minimum(total, _MOST).astype(np.uint32).copy
    return counts
