"""Pools: encoded rows held in memory, so that any of them can be gathered fast.

A gather of random rows costs one cache miss for each column of a feature-major pool. Here the fixed
part of a row (ids, dense features, labels, weight, number) lies together as 32-bit words, and
becomes feature-major when it is a batch. The items of a row's list lie together as bytes.

Shape letters: B rows of a pool, M rows that are gathered, W words of a row, N items of a list
column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl.batch import Batch, Ragged
from recmtl.data.arrow import to_arrow
from recmtl.data.cutting import join_lists

__all__ = ["Pool", "RowFormat", "to_batch"]

_BLOCK_WORDS, _FEWEST_ROWS = 1 << 17, 64  # that are transposed at once, inside the cache


class RowFormat(NamedTuple):
    """Where the parts of a row lie among its words."""

    num_ids: int
    num_dense: int
    num_labels: int
    words_per_id: int
    """1, or 2 where a table has 2^31 rows or more."""

    @property
    def cuts(self) -> list[int]:
        """Widths, in words: ids, dense features, labels, weight, row number."""
        return [self.words_per_id * self.num_ids, self.num_dense, self.num_labels, 1, 2]

    @property
    def id_dtype(self) -> torch.dtype:
        """The integer that holds an id."""
        return torch.int32 if self.words_per_id == 1 else torch.int64

    @property
    def num_bytes(self) -> int:
        """Memory of a row, list columns left out."""
        return 4 * sum(self.cuts)


class _Items(NamedTuple):
    """What the rows of a pool have in a list column: numbers of one type, as bytes."""

    bytes_B: pa.LargeBinaryArray
    dtype: torch.dtype

    @classmethod
    def of(cls, parts: Sequence[Tensor], ends_B: NDArray[np.int64]) -> _Items:
        """Numbers of all rows, one row's after the other's, and where those of each row end."""
        numbers_N = torch.cat(list(parts)).numpy()
        offsets = np.concatenate([np.zeros(1, np.int64), ends_B]) * numbers_N.itemsize
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(numbers_N)]
        array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends_B), buffers)
        return cls(array, parts[0].dtype)

    def gather(self, index_M: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The numbers of some rows, and how many each of them has."""
        found = pc.take(self.bytes_B, to_arrow(index_M), boundscheck=False)
        _, offsets, numbers = found.buffers()
        ends = np.frombuffer(offsets, np.int64, len(found) + 1)
        size = self.dtype.itemsize
        count = int(ends[-1]) // size
        if not count:
            return torch.empty(0, dtype=self.dtype), torch.zeros(len(found), dtype=torch.int64)
        numbers_N = torch.frombuffer(numbers, dtype=self.dtype, count=count)
        return numbers_N, torch.from_numpy(np.diff(ends) // size)


class _Lists(NamedTuple):
    """A list column of a pool."""

    values: _Items
    weights: _Items | None

    def gather(self, index_M: NDArray[np.int64]) -> Ragged:
        values_N, lengths_M = self.values.gather(index_M)
        weights_N = None if self.weights is None else self.weights.gather(index_M)[0]
        return Ragged(values_N, lengths_M, weights_N)


class Gathered(NamedTuple):
    """Some rows of a pool, on their way to a batch."""

    words_MW: Tensor
    bags: dict[str, Ragged]
    sequences: dict[str, Ragged]

    def cut(self, sizes: Sequence[int]) -> Iterator[Gathered]:
        """Stretches of these sizes, one after the other; they share this one's memory."""
        words = self.words_MW.split(list(sizes))
        bags = {name: _cut(column, sizes) for name, column in self.bags.items()}
        sequences = {name: _cut(column, sizes) for name, column in self.sequences.items()}
        for k in range(len(sizes)):
            yield Gathered(
                words[k],
                {name: columns[k] for name, columns in bags.items()},
                {name: columns[k] for name, columns in sequences.items()},
            )


class Pool:
    """Encoded rows, put together from batches that come one by one.

    Args:
        parts: the rows; at most one part is in memory beside the pool.
        num_rows: of all parts together.
        row_format: of the fixed part of a row.
    """

    def __init__(self, parts: Iterable[Batch], num_rows: int, row_format: RowFormat) -> None:
        self.row_format = row_format
        self._words_BW = torch.empty((num_rows, sum(row_format.cuts)), dtype=torch.int32)
        bags: dict[str, list[Ragged]] = {}
        sequences: dict[str, list[Ragged]] = {}
        done = 0
        for part in parts:
            self._write(part, done)
            done += len(part)
            for columns, lists in ((part.bags, bags), (part.sequences, sequences)):
                for name, column in columns.items():
                    small = column._replace(values_N=column.values_N.to(row_format.id_dtype))
                    lists.setdefault(name, []).append(small)
        assert done == num_rows
        self._bags = {name: _lists(bags.pop(name)) for name in list(bags)}
        self._sequences = {name: _lists(sequences.pop(name)) for name in list(sequences)}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._words_BW)

    def gather(self, index_M: Tensor) -> Gathered:
        """The rows `index_M`, in that order."""
        index = index_M.numpy()
        return Gathered(
            self._words_BW.index_select(0, index_M),
            {name: lists.gather(index) for name, lists in self._bags.items()},
            {name: lists.gather(index) for name, lists in self._sequences.items()},
        )

    def _write(self, part: Batch, first: int) -> None:
        """Rows in blocks: feature-major words first, then all of them transposed at once."""
        cuts, num_words = self.row_format.cuts, self._words_BW.shape[1]
        step = max(_BLOCK_WORDS // num_words, _FEWEST_ROWS)
        for start in range(0, len(part), step):
            stop = min(start + step, len(part))
            words_WM = torch.empty((num_words, stop - start), dtype=torch.int32)
            ids, dense, labels, weight, rows = torch.split(words_WM, cuts)
            _to_words(part.ids_FB[:, start:stop], ids)
            dense.view(torch.float32).copy_(part.dense_DB[:, start:stop])
            labels.view(torch.float32).copy_(part.labels_BK[start:stop].T)
            weight.view(torch.float32).copy_(part.weight_B[None, start:stop])
            _to_words(part.rows_B[None, start:stop], rows)
            self._words_BW[first + start : first + stop].copy_(words_WM.T)


def to_batch(gathered: Sequence[Gathered], row_format: RowFormat) -> Batch:
    """One batch of rows from several pools of one format, one pool's after the other's."""
    first = gathered[0]
    words_MW = first.words_MW if len(gathered) == 1 else torch.cat([g.words_MW for g in gathered])
    words_WM = torch.empty(words_MW.shape[::-1], dtype=torch.int32).copy_(words_MW.T)
    ids, dense, labels, weight, rows = torch.split(words_WM, row_format.cuts)
    return Batch(
        ids_FB=_from_words(ids, row_format.words_per_id),
        dense_DB=dense.view(torch.float32).clone(),
        bags={name: _joined([g.bags[name] for g in gathered]) for name in first.bags},
        sequences={
            name: _joined([g.sequences[name] for g in gathered]) for name in first.sequences
        },
        labels_BK=labels.view(torch.float32).T.clone(memory_format=torch.contiguous_format),
        weight_B=weight.view(torch.float32)[0].clone(),
        rows_B=_from_words(rows, 2)[0],
    )


def _to_words(numbers_FM: Tensor, out: Tensor) -> None:
    """Integers of 64 bits as words: one that holds the number, or the lower and the upper half."""
    if len(out) == len(numbers_FM):
        out.copy_(numbers_FM)
        return
    out[0::2] = numbers_FM
    out[1::2] = numbers_FM >> 32


def _from_words(words: Tensor, words_per_number: int) -> Tensor:
    """What `_to_words` was given."""
    if words_per_number == 1:
        return words.long()
    return (words[0::2].long() & 0xFFFFFFFF) | (words[1::2].long() << 32)


def _cut(column: Ragged, sizes: Sequence[int]) -> list[Ragged]:
    lengths = column.lengths_B.split(list(sizes))
    items = [int(part.sum()) for part in lengths]
    weights = [None] * len(items) if column.weights_N is None else column.weights_N.split(items)
    return [
        Ragged(*part) for part in zip(column.values_N.split(items), lengths, weights, strict=True)
    ]


def _lists(columns: Sequence[Ragged]) -> _Lists:
    weights = [column.weights_N for column in columns if column.weights_N is not None]
    ends_B = torch.cat([column.lengths_B for column in columns]).cumsum(0).numpy()
    values = _Items.of([column.values_N for column in columns], ends_B)
    return _Lists(values, _Items.of(weights, ends_B) if weights else None)


def _joined(columns: Sequence[Ragged]) -> Ragged:
    joined = join_lists(columns)
    return joined._replace(values_N=joined.values_N.long())
