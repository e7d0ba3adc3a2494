"""Batches put together, cut and padded. A pool of a million rows and a batch of 4096 are the same thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn.functional import pad

from recmtl.batch import Batch, Ragged

__all__ = ["concat", "cut_rows", "gather_pool", "pad_to"]


def concat(batches: Sequence[Batch]) -> Batch:
    """The rows of all batches, one after the other."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    return Batch(
        ids_FB=torch.cat([b.ids_FB for b in batches], 1),
        dense_DB=torch.cat([b.dense_DB for b in batches], 1),
        bags={name: _concat_ragged([b.bags[name] for b in batches]) for name in first.bags},
        sequences={name: _concat_ragged([b.sequences[name] for b in batches]) for name in first.sequences},
        labels_BK=torch.cat([b.labels_BK for b in batches]),
        weight_B=torch.cat([b.weight_B for b in batches]),
        rows_B=torch.cat([b.rows_B for b in batches]),
    )


def gather_pool(parts: Iterable[Batch], num_rows: int) -> Batch:
    """`concat` for parts that come one by one and hold `num_rows` rows together: memory for one pool and one part.

    List columns alone are held twice for a moment.
    """
    out: Batch | None = None
    ragged: list[tuple[dict[str, Ragged], dict[str, Ragged]]] = []
    done = 0
    for part in parts:
        out = _empty_like(part, num_rows) if out is None else out
        end = done + len(part)
        out.ids_FB[:, done:end] = part.ids_FB
        out.dense_DB[:, done:end] = part.dense_DB
        out.labels_BK[done:end] = part.labels_BK
        out.weight_B[done:end] = part.weight_B
        out.rows_B[done:end] = part.rows_B
        ragged.append((part.bags, part.sequences))
        done = end
    assert out is not None
    assert done == num_rows
    out.bags.update({name: _concat_ragged([bags[name] for bags, _ in ragged]) for name in ragged[0][0]})
    out.sequences.update({name: _concat_ragged([seqs[name] for _, seqs in ragged]) for name in ragged[0][1]})
    return out


def cut_rows(batch: Batch, sizes: Iterable[int]) -> Iterator[Batch]:
    """Consecutive stretches of a batch's rows, contiguous in memory."""
    start = 0
    ends = {name: r.lengths_B.cumsum(0) for name, r in (*batch.bags.items(), *batch.sequences.items())}
    for size in sizes:
        stop = start + size

        def cut(name: str, column: Ragged, start: int = start, stop: int = stop) -> Ragged:
            low = int(ends[name][start - 1]) if start else 0
            high = int(ends[name][stop - 1]) if stop else 0
            weights_N = None if column.weights_N is None else column.weights_N[low:high]
            return Ragged(column.values_N[low:high], column.lengths_B[start:stop], weights_N)

        yield Batch(
            ids_FB=batch.ids_FB[:, start:stop].contiguous(),
            dense_DB=batch.dense_DB[:, start:stop].contiguous(),
            bags={name: cut(name, column) for name, column in batch.bags.items()},
            sequences={name: cut(name, column) for name, column in batch.sequences.items()},
            labels_BK=batch.labels_BK[start:stop],
            weight_B=batch.weight_B[start:stop],
            rows_B=batch.rows_B[start:stop],
        )
        start = stop


def pad_to(batch: Batch, size: int) -> Batch:
    """The batch with rows added up to `size`: weight 0, row number -1, every id 0, empty lists, labels NaN.

    Example:
        >>> from recmtl.batch import Batch
        >>> one = torch.ones(1)
        >>> batch = Batch(torch.ones(2, 1).long(), torch.ones(0, 1), {}, {}, torch.ones(1, 1), one, torch.zeros(1).long())
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


def _concat_ragged(columns: Sequence[Ragged]) -> Ragged:
    weights = [column.weights_N for column in columns if column.weights_N is not None]
    return Ragged(
        torch.cat([column.values_N for column in columns]),
        torch.cat([column.lengths_B for column in columns]),
        torch.cat(weights) if weights else None,
    )


def _empty_like(part: Batch, num_rows: int) -> Batch:
    return Batch(
        ids_FB=part.ids_FB.new_empty((len(part.ids_FB), num_rows)),
        dense_DB=part.dense_DB.new_empty((len(part.dense_DB), num_rows)),
        bags={},
        sequences={},
        labels_BK=part.labels_BK.new_empty((num_rows, part.labels_BK.shape[1])),
        weight_B=part.weight_B.new_empty(num_rows),
        rows_B=part.rows_B.new_empty(num_rows),
    )
