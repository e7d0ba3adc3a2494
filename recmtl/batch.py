"""Batch: what passes from data to model. Torch only.

Shape letters: B rows, F single-valued sparse features, N values of a list column, D dense
features and components of vectors, K label columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Ragged"]


class Ragged(NamedTuple):
    """A list column: the values of row 0, then those of row 1, and so on."""

    values_N: Tensor
    """int64 ids inside their table."""
    lengths_B: Tensor
    """int64 number of values of each row; they sum to N."""
    weights_N: Tensor | None = None
    """float32 weight of each value, where the feature is weighted."""

    def select(self, index_M: Tensor) -> Ragged:
        """The rows `index_M`, in that order."""
        lengths_M = self.lengths_B[index_M]
        starts_M = (self.lengths_B.cumsum(0) - self.lengths_B)[index_M]
        ends_M = lengths_M.cumsum(0)
        total = int(ends_M[-1]) if len(ends_M) else 0
        shift_M = starts_M - (ends_M - lengths_M)
        take_N = torch.arange(total, device=index_M.device) + shift_M.repeat_interleave(
            lengths_M, output_size=total
        )
        weights_N = None if self.weights_N is None else self.weights_N[take_N]
        return Ragged(self.values_N[take_N], lengths_M, weights_N)

    def each(self, change: Callable[[Tensor], Tensor]) -> Ragged:
        """A column of what `change` makes of each tensor."""
        weights_N = None if self.weights_N is None else change(self.weights_N)
        return Ragged(change(self.values_N), change(self.lengths_B), weights_N)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a click log as tensors, encoded by one set of encoders, in the order of the spec.

    A pool of a million rows and a batch of 4096 are the same thing. Padded rows have weight 0, row
    number -1 and are observed nowhere.
    """

    ids_FB: Tensor
    """int64 ids of the single-valued sparse features, each inside its table; 0 is
    out-of-vocabulary."""
    dense_DB: Tensor
    """float32 dense features, then the components of vectors, transformed and normalised
    (feature-major, like `ids_FB`; see `Spec.dense_rows`)."""
    bags: dict[str, Ragged]
    """List-valued sparse features by name."""
    sequences: dict[str, Ragged]
    """Sequence features by name, oldest first, already cut to `max_len`."""
    labels_BK: Tensor
    """float32 label columns (see `Encoders.labels`); NaN where the label is null. K = 0 when
    scoring."""
    weight_B: Tensor
    """float32 sample weights."""
    rows_B: Tensor
    """int64 number of each row in its log, from 0."""

    def __len__(self) -> int:
        return len(self.weight_B)

    def __repr__(self) -> str:
        columns = [*self.bags, *self.sequences]
        lists = f", lists {', '.join(columns)}" if columns else ""
        return f"Batch({len(self)} rows, {len(self.ids_FB)} ids, {len(self.dense_DB)} dense{lists})"

    def select(self, index_M: Tensor) -> Batch:
        """The rows `index_M`, in that order."""
        return Batch(
            ids_FB=self.ids_FB[:, index_M],
            dense_DB=self.dense_DB[:, index_M],
            bags={name: column.select(index_M) for name, column in self.bags.items()},
            sequences={name: column.select(index_M) for name, column in self.sequences.items()},
            labels_BK=self.labels_BK[index_M],
            weight_B=self.weight_B[index_M],
            rows_B=self.rows_B[index_M],
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same rows on `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A batch of what `change` makes of each tensor."""
        return Batch(
            ids_FB=change(self.ids_FB),
            dense_DB=change(self.dense_DB),
            bags={name: column.each(change) for name, column in self.bags.items()},
            sequences={name: column.each(change) for name, column in self.sequences.items()},
            labels_BK=change(self.labels_BK),
            weight_B=change(self.weight_B),
            rows_B=change(self.rows_B),
        )
