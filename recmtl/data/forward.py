"""Parquet files read forward: what is stored together is decoded once, a page at a time.

A read of rows that follow those of the last read goes on where it stopped. So a log that is read
piece by piece is decoded once, whatever the size of its row groups, and takes the memory of a few
pages of each column, not of a row group. Each thread has a place of its own.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recmtl.data.arrow import to_arrow
from recmtl.data.stamp import Stamp, stamp_of

__all__ = ["arrow_types", "page_bytes", "read_forward", "release"]

_BUFFER_BYTES, _PAGE_BYTES = 1 << 16, 1 << 20
_BATCH_ROWS, _BATCH_BYTES = (128, 4096), 1 << 19
_MANY_ROWS = 1 << 14  # read at once, they are decoded at once: the budget is a large one
_NEAR_ROWS = 4096  # decoding them takes no longer than opening the file anew


# Arrow's own pool keeps two to three times of what was ever needed at once.
_POOL = pa.system_memory_pool()
_pool_lock = threading.Lock()


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    ends: tuple[int, ...]
    """Last row + 1 of each row group."""
    types: pl.Schema
    """What the columns are when they are read."""


class _Forward:
    """A place in a file, and the rows around it that are decoded already."""

    def __init__(self, path: Path, columns: tuple[str, ...], at: int, at_once: int | None) -> None:
        self.path, self.columns = path, columns
        footer = _footer(path, stamp_of(path.stat()))
        group = bisect_right(footer.ends, at)
        row_bytes = _decoded_bytes(footer.metadata, min(group, len(footer.ends) - 1), columns)
        smallest, largest = _BATCH_ROWS
        few = min(max(int(_BATCH_BYTES / row_bytes), smallest), largest)
        self.batch_rows = few if at_once is None or at_once < _MANY_ROWS else at_once
        self.at = footer.ends[group - 1] if group else 0
        self.ends = footer.ends
        with _allocating_from(_POOL):
            self._file = pq.ParquetFile(
                path, metadata=footer.metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False
            )
        self._batches: Iterator[pa.RecordBatch] = self._file.iter_batches(
            batch_size=self.batch_rows,
            row_groups=range(group, len(footer.ends)),
            columns=list(columns),
            use_threads=False,
        )
        self._left: pa.RecordBatch | None = None

    def goes_on_to(
        self, path: Path, columns: tuple[str, ...], low: int, at_once: int | None
    ) -> bool:
        """Whether these rows lie ahead in the same row group, or near, and are not far more."""
        if (path, columns) != (self.path, self.columns) or low < self.at:
            return False
        if at_once is not None and at_once >= max(_MANY_ROWS, 4 * self.batch_rows):
            return False
        same_group = bisect_right(self.ends, low) == bisect_right(self.ends, self.at)
        return same_group or low - self.at < _NEAR_ROWS

    def read(self, low: int, high: int, offsets: NDArray[np.int64] | None) -> pl.DataFrame:
        """Rows `low` to `high`, or as many as there are; of them those at `offsets`, or all."""
        parts: list[pa.RecordBatch] = []
        while self.at < high:
            batch = self._left if self._left is not None else self._next()
            self._left = None
            if batch is None:
                break
            begin = min(max(low - self.at, 0), batch.num_rows)
            stop = min(high - self.at, batch.num_rows)
            if begin < stop and offsets is None:
                parts.append(batch.slice(begin, stop - begin))
            elif begin < stop and offsets is not None:
                here = offsets + (low - self.at)
                first, last = np.searchsorted(here, [begin, stop])
                if first < last:
                    wanted = to_arrow(here[first:last])
                    parts.append(pc.take(batch, wanted, memory_pool=_POOL))
            if stop < batch.num_rows:
                self._left = batch.slice(stop)
            self.at += stop
        if len(parts) == 1:
            frame = pl.from_arrow(parts[0])
        elif parts:
            frame = pl.from_arrow(pa.Table.from_batches(parts).combine_chunks(_POOL))
        else:
            frame = pl.from_arrow(pa.Table.from_batches([], self._file.schema_arrow))
        assert isinstance(frame, pl.DataFrame)
        return frame.select(self.columns)

    def _next(self) -> pa.RecordBatch | None:
        """The next rows, their fixed-size lists as lists: polars refuses a part of the former."""
        batch = next(self._batches, None)
        if batch is None or not any(pa.types.is_fixed_size_list(t) for t in batch.schema.types):
            return batch
        columns = [
            pc.cast(column, _of_any_size(column.type), memory_pool=_POOL)
            if pa.types.is_fixed_size_list(column.type)
            else column
            for column in batch.columns
        ]
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

    def close(self) -> None:
        """Give files and memory back."""
        self._left = None
        self._batches = iter(())
        self._file.close()


def _of_any_size(dtype: pa.DataType) -> pa.DataType:
    """The type with lists in place of lists of a fixed size."""
    if not pa.types.is_fixed_size_list(dtype):
        return dtype
    return pa.large_list(_of_any_size(dtype.value_type))


class _Place(threading.local):
    forward: _Forward | None = None


_place = _Place()


def read_forward(
    path: Path,
    columns: Sequence[str],
    low: int,
    high: int,
    offsets: NDArray[np.int64] | None = None,
) -> pl.DataFrame:
    """Rows `low` to `high` (exclusive) of a file, fewer where it has fewer.

    Args:
        path: a Parquet file.
        columns: what to read, in this order.
        low: first row.
        high: last row + 1.
        offsets: which of these rows, counted from `low` and rising; all if None.

    Raises:
        OSError, ValueError: the file cannot be read (pyarrow's errors are these).
    """
    wanted, forward = tuple(columns), _place.forward
    at_once = high - low if offsets is None else None
    if forward is None or not forward.goes_on_to(path, wanted, low, at_once):
        release()
        forward = _place.forward = _Forward(path, wanted, low, at_once)
    try:
        frame = forward.read(low, high, offsets)
    except BaseException:
        release()
        raise
    if forward.at >= forward.ends[-1]:
        release()
    return frame


@contextmanager
def _allocating_from(pool: pa.MemoryPool) -> Iterator[None]:
    """What is opened here takes its memory from `pool` ever after."""
    with _pool_lock:
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            yield
        finally:
            pa.set_memory_pool(before)


def release() -> None:
    """Give back what this thread keeps to go on reading."""
    if _place.forward is not None:
        _place.forward.close()
        _place.forward = None


def arrow_types(path: Path) -> pl.Schema:
    """The types in which `read_forward` gives the columns of a file."""
    return _footer(path, stamp_of(path.stat())).types


def page_bytes(path: Path, columns: Sequence[str], group_rows: int) -> int:
    """About the memory that it takes to read a file: a page of each column.

    Pages have up to 1 MiB in the files that pyarrow, polars and Spark write; those of a column in a
    row group of `group_rows` rows, the largest, have no more than the column has there.
    """
    metadata = _footer(path, stamp_of(path.stat())).metadata
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    largest = next(group for group in groups if group.num_rows == group_rows)
    chunks = [largest.column(i) for i in range(largest.num_columns)]
    return sum(
        min(chunk.total_uncompressed_size, _PAGE_BYTES)
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] in columns
    )


def _decoded_bytes(metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> float:
    """About what a row takes when it is decoded."""
    about = metadata.row_group(group)
    chunks = (about.column(i) for i in range(about.num_columns))
    wanted = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
    sizes = (max(8 * chunk.num_values, chunk.total_uncompressed_size) for chunk in wanted)
    return float(max(sum(sizes), 1) / max(about.num_rows, 1))


@lru_cache(maxsize=2)
def _footer(path: Path, stamp: Stamp) -> _Footer:
    metadata = pq.read_metadata(path)
    rows = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    empty = pl.from_arrow(pa.Table.from_batches([], metadata.schema.to_arrow_schema()))
    assert isinstance(empty, pl.DataFrame)
    return _Footer(metadata, tuple(accumulate(rows)), empty.schema)
