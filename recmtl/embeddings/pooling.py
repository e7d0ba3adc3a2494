"""What both lookups share: bags, divisors of mean bags, places of a sequence's items. Torch only.

Shape letters: B rows, N values of a list column, L sequence length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recmtl.batch import Batch, Ragged
from recmtl.embeddings.tables import BagFeature

__all__ = ["bag_of", "finish_bag", "positions", "rows_of"]


def rows_of(column: Ragged) -> Tensor:
    """Row number of each value, [N]."""
    lengths_B = column.lengths_B
    rows_B = torch.arange(lengths_B.shape[0], device=lengths_B.device)
    return rows_B.repeat_interleave(lengths_B, output_size=column.values_N.shape[0])


def bag_of(batch: Batch, name: str) -> Ragged:
    """The column of a bag; a sequence is one too where its items are not kept apart."""
    return batch.bags[name] if name in batch.bags else batch.sequences[name]


def finish_bag(bag: BagFeature, column: Ragged, sum_BE: Tensor) -> Tensor:
    """The pooled vectors [B, E] from the (weighted) sums.

    A mean divides by the length, or by the sum of the weights. An empty bag, or one whose weights
    sum to zero, is zero.
    """
    if bag.pooling == "sum":
        return sum_BE
    if column.weights_N is None:
        return sum_BE / column.lengths_B.clamp(min=1).unsqueeze(1)
    zeros_B = column.weights_N.new_zeros(column.lengths_B.shape[0])
    total_B = zeros_B.index_add(0, rows_of(column), column.weights_N)
    is_zero_B = total_B == 0
    return sum_BE * ((~is_zero_B) / torch.where(is_zero_B, 1.0, total_B)).unsqueeze(1)


def positions(column: Ragged, max_len: int) -> tuple[Tensor, Tensor]:
    """Where item l of each row stands in `values_N` [L, B], and whether it has one [L, B]."""
    lengths_B = column.lengths_B
    position_L1 = torch.arange(max_len, device=lengths_B.device).unsqueeze(1)
    starts_B = lengths_B.cumsum(0) - lengths_B
    return starts_B + position_L1, position_L1 < lengths_B
