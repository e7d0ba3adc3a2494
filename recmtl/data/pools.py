"""Pools: encoded rows held in memory, so that any of them can be gathered fast.

A gather of random rows costs one cache miss for each column of a feature-major pool. Here the fixed
part of a row (ids, dense features, labels, weight, number) lies together as 32-bit words, and
becomes feature-major when it is a batch.

Shape letters: B rows of a pool, M rows that are gathered, W words of a row, N items of a list
column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.batch import Batch, Ragged

__all__ = ["Pool", "RowFormat", "to_batch"]

_BLOCK = 1 << 12  # rows that are transposed at once, inside the cache


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


class _Lists(NamedTuple):
    """A list column of a pool: like `Ragged`, and where each row's items start."""

    values_N: Tensor
    lengths_B: Tensor
    starts_B: Tensor
    weights_N: Tensor | None

    def gather(self, index_M: Tensor) -> Ragged:
        lengths_M = self.lengths_B[index_M]
        ends_M = lengths_M.cumsum(0)
        total = int(ends_M[-1]) if len(ends_M) else 0
        shift_M = self.starts_B[index_M] - (ends_M - lengths_M)
        take_N = torch.arange(total) + shift_M.repeat_interleave(lengths_M, output_size=total)
        weights_N = None if self.weights_N is None else self.weights_N[take_N]
        return Ragged(self.values_N[take_N], lengths_M, weights_N)


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
        return Gathered(
            self._words_BW.index_select(0, index_M),
            {name: lists.gather(index_M) for name, lists in self._bags.items()},
            {name: lists.gather(index_M) for name, lists in self._sequences.items()},
        )

    def _write(self, part: Batch, first: int) -> None:
        ids, dense, labels, weight, rows = torch.split(
            self._words_BW[first : first + len(part)], self.row_format.cuts, 1
        )
        for start in range(0, len(part), _BLOCK):
            stop = min(start + _BLOCK, len(part))
            # Not `contiguous()`, which leaves the strides of a single column as they are.
            ids_BF = torch.empty(
                (stop - start, self.row_format.num_ids), dtype=self.row_format.id_dtype
            )
            ids_BF.copy_(part.ids_FB[:, start:stop].T)
            ids[start:stop] = ids_BF.view(torch.int32)
            dense[start:stop] = part.dense_DB[:, start:stop].T.view(torch.int32)
        labels.copy_(part.labels_BK.view(torch.int32))
        weight.copy_(part.weight_B[:, None].view(torch.int32))
        rows.copy_(part.rows_B[:, None].view(torch.int32))


def to_batch(gathered: Sequence[Gathered], row_format: RowFormat) -> Batch:
    """One batch of rows from several pools of one format, one pool's after the other's."""
    first = gathered[0]
    words_MW = first.words_MW if len(gathered) == 1 else torch.cat([g.words_MW for g in gathered])
    ids, dense, labels, weight, rows = torch.split(words_MW, row_format.cuts, 1)
    ids_MF = _viewed(ids, row_format.id_dtype)
    return Batch(
        ids_FB=ids_MF.T.contiguous().long(),
        dense_DB=dense.view(torch.float32).T.contiguous(),
        bags={name: _joined([g.bags[name] for g in gathered]) for name in first.bags},
        sequences={
            name: _joined([g.sequences[name] for g in gathered]) for name in first.sequences
        },
        labels_BK=_viewed(labels, torch.float32),
        weight_B=_viewed(weight, torch.float32)[:, 0],
        rows_B=_viewed(rows, torch.int64)[:, 0],
    )


def _cut(column: Ragged, sizes: Sequence[int]) -> list[Ragged]:
    lengths = column.lengths_B.split(list(sizes))
    items = [int(part.sum()) for part in lengths]
    weights = [None] * len(items) if column.weights_N is None else column.weights_N.split(items)
    return [
        Ragged(*part) for part in zip(column.values_N.split(items), lengths, weights, strict=True)
    ]


def _viewed(words: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of some words, as numbers of another type.

    Not `contiguous()`, which leaves the strides of a single row as they are.
    """
    return words.clone(memory_format=torch.contiguous_format).view(dtype)


def _lists(columns: Sequence[Ragged]) -> _Lists:
    weights = [column.weights_N for column in columns if column.weights_N is not None]
    lengths_B = torch.cat([column.lengths_B for column in columns])
    return _Lists(
        torch.cat([column.values_N for column in columns]),
        lengths_B,
        lengths_B.cumsum(0) - lengths_B,
        torch.cat(weights) if weights else None,
    )


def _joined(columns: Sequence[Ragged]) -> Ragged:
    weights = [column.weights_N for column in columns if column.weights_N is not None]
    return Ragged(
        torch.cat([column.values_N for column in columns]).long(),
        torch.cat([column.lengths_B for column in columns]),
        torch.cat(weights) if weights else None,
    )
