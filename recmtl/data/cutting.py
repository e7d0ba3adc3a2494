"""Batches cut, joined and padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn.functional import pad

from recmtl.batch import Batch, Ragged

__all__ = ["cut_rows", "join_lists", "join_rows", "pad_to"]


def cut_rows(batch: Batch, sizes: Iterable[int]) -> Iterator[Batch]:
    """Consecutive stretches of a batch's rows, contiguous in memory."""
    lists = {**batch.bags, **batch.sequences}
    ends = {name: [0, *column.lengths_B.cumsum(0).tolist()] for name, column in lists.items()}
    start = 0
    for size in sizes:
        stop = start + size
        parts = {name: _cut_list(column, ends[name], start, stop) for name, column in lists.items()}
        yield Batch(
            ids_FB=batch.ids_FB[:, start:stop].contiguous(),
            dense_DB=batch.dense_DB[:, start:stop].contiguous(),
            bags={name: parts[name] for name in batch.bags},
            sequences={name: parts[name] for name in batch.sequences},
            labels_BK=batch.labels_BK[start:stop],
            weight_B=batch.weight_B[start:stop],
            rows_B=batch.rows_B[start:stop],
        )
        start = stop


def join_rows(batches: Sequence[Batch]) -> Batch:
    """The rows of batches, one after the other."""
    first = batches[0]
    if len(batches) == 1:
        return first
    return Batch(
        ids_FB=torch.cat([b.ids_FB for b in batches], dim=1),
        dense_DB=torch.cat([b.dense_DB for b in batches], dim=1),
        bags={name: join_lists([b.bags[name] for b in batches]) for name in first.bags},
        sequences={
            name: join_lists([b.sequences[name] for b in batches]) for name in first.sequences
        },
        labels_BK=torch.cat([b.labels_BK for b in batches]),
        weight_B=torch.cat([b.weight_B for b in batches]),
        rows_B=torch.cat([b.rows_B for b in batches]),
    )


def join_lists(columns: Sequence[Ragged]) -> Ragged:
    """The rows of list columns, one after the other."""
    if len(columns) == 1:
        return columns[0]
    weights = [column.weights_N for column in columns if column.weights_N is not None]
    return Ragged(
        torch.cat([column.values_N for column in columns]),
        torch.cat([column.lengths_B for column in columns]),
        torch.cat(weights) if weights else None,
    )


def pad_to(batch: Batch, size: int) -> Batch:
    """The batch, filled up to `size` rows.

    The rows that are added have weight 0, row number -1, ids 0, empty lists, and labels NaN.

    Example:
        >>> import torch
        >>> ids, dense, weight = torch.ones(2, 1).long(), torch.ones(0, 1), torch.ones(1)
        >>> batch = Batch(ids, dense, {}, {}, torch.ones(1, 1), weight, torch.zeros(1).long())
        >>> padded = pad_to(batch, 3)
        >>> padded.rows_B, padded.weight_B
        (tensor([ 0, -1, -1]), tensor([1., 0., 0.]))
    """
    more = size - len(batch)
    if more <= 0:
        return batch

    def pad_list(column: Ragged) -> Ragged:
        return column._replace(lengths_B=pad(column.lengths_B, (0, more)))

    return Batch(
        ids_FB=pad(batch.ids_FB, (0, more)),
        dense_DB=pad(batch.dense_DB, (0, more)),
        bags={name: pad_list(column) for name, column in batch.bags.items()},
        sequences={name: pad_list(column) for name, column in batch.sequences.items()},
        labels_BK=pad(batch.labels_BK, (0, 0, 0, more), value=float("nan")),
        weight_B=pad(batch.weight_B, (0, more)),
        rows_B=pad(batch.rows_B, (0, more), value=-1),
    )


def _cut_list(column: Ragged, ends: list[int], start: int, stop: int) -> Ragged:
    low, high = ends[start], ends[stop]
    weights_N = None if column.weights_N is None else column.weights_N[low:high]
    return Ragged(column.values_N[low:high], column.lengths_B[start:stop], weights_N)
