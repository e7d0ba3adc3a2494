"""Rows of the log as NumPy columns, for packages that take them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
from workload import DENSE, IDS

__all__ = ["FEATURES", "LABELS", "batches_of", "cycling", "read"]

FEATURES = (*IDS, *DENSE)
LABELS = ("click", "conversion")
NUM_BATCHES = 24
"""Different batches in memory: as many rows as one row group has, or less."""

Batch = TypeVar("Batch")


def read(path: str, columns: Sequence[str]) -> dict[str, Any]:
    """Columns of a whole file."""
    table = pq.read_table(path, columns=list(columns))
    return {name: table[name].to_numpy() for name in columns}


def batches_of(train: str, batch_size: int) -> Iterator[dict[str, Any]]:
    """Batches of features and labels from the first rows of a file."""
    group = pq.ParquetFile(train).read_row_group(0, columns=[*FEATURES, *LABELS])
    for i in range(min(NUM_BATCHES, len(group) // batch_size)):
        part = group.slice(i * batch_size, batch_size)
        yield {name: np.array(part[name].to_numpy()) for name in (*FEATURES, *LABELS)}


def cycling(
    run: Callable[[list[Batch]], object], batches: list[Batch], rows: int
) -> Callable[[int], int]:
    """A function that does the next batches and returns how many rows those were."""
    endless = itertools.cycle(batches)

    def work(count: int) -> int:
        run(list(itertools.islice(endless, count)))
        return count * rows

    return work
