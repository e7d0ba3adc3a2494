"""Prior: a normal prior on every row of a table, as a decay where the row is looked up.

Shape letters: B rows, F features of a block, C columns of a block, E embedding width, L sequence
length, N values, R rows of all tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from recmtl.batch import Batch
from recmtl.embeddings.pooling import bag_of, positions, rows_of
from recmtl.embeddings.tables import Layout
from recmtl.embeddings.vectors import Vectors

__all__ = ["Prior"]


class Prior(nn.Module):
    r"""What the rows of tables would be if nothing were known: zero, with some precision.

    The loss over all N training rows is to have, for each row v of each table,

    .. math:: \frac{\lambda}{2} \lVert v \rVert^2

    once, however often v is looked up; in the mean loss of a batch of B rows that is expected of
    :math:`\lambda / (n_v B)` at each of its lookups, where :math:`n_v` is how often v is looked up
    in the training rows. Its gradient is added where the vectors' gradient passes by, so that the
    loss is that of the tasks. A table that several features share decays where its owner looks it
    up; of a bag, the pooled vector decays by the mean of its items' rates.

    Example:
        >>> from recmtl.embeddings.tables import SingleFeature, Table
        >>> tables = (Table("user", 3, 2, ("user",)),)
        >>> layout = Layout(tables, (SingleFeature("user", "user"),), (), (), ("user",))
        >>> prior = Prior(layout, {"user": torch.tensor([1, 4, 8])})
        >>> prior.rate_R
        tensor([1.0000, 0.2500, 0.1250])
    """

    rate_R: Tensor

    def __init__(self, layout: Layout, counts: Mapping[str, Tensor]) -> None:
        """Keep how fast each row decays.

        Args:
            layout: features and tables.
            counts: table -> in how many training rows its owner looks each row up; below one
                counts as one.
        """
        super().__init__()
        rates = [1.0 / counts[t.name].clamp(min=1).float() for t in layout.tables]
        self.register_buffer("rate_R", torch.cat(rates), persistent=False)
        firsts = accumulate((t.num_embeddings for t in layout.tables), initial=0)
        self._first = {t.name: first for t, first in zip(layout.tables, firsts, strict=False)}
        self._owners = frozenset(self._first) & frozenset(layout.features)
        self._single = {f.name: i for i, f in enumerate(layout.single) if f.name in self._owners}
        self._max_len = {s.name: s.max_len for s in layout.sequences}
        self._dims = layout.dims

    def forward(self, vectors: Vectors, batch: Batch, scale_B: Tensor) -> Vectors:
        r"""The same vectors, which will decay in backward.

        Args:
            vectors: what was looked up for the batch.
            batch: the batch.
            scale_B: :math:`\lambda / B`, as each row's weight says.
        """
        return vectors.map_blocks(lambda names, block: self._decaying(names, block, batch, scale_B))

    def _decaying(
        self, names: tuple[str, ...], block: Tensor, batch: Batch, scale_B: Tensor
    ) -> Tensor:
        if self._owners.isdisjoint(names):
            return block
        if block.dim() == 3:
            rate = self._rates_of_items(names[0], batch) * scale_B.unsqueeze(1)
            return _decay(block, rate.unsqueeze(2))
        rate_BF = torch.stack([self._rates(name, batch) * scale_B for name in names], dim=1)
        widths = [self._dims[name] for name in names]
        if len(set(widths)) == 1:
            shape = (len(block), len(names), widths[0])
            return _decay(block.view(shape), rate_BF.unsqueeze(2)).view(block.shape)
        width_F = torch.tensor(widths, device=block.device)
        return _decay(block, rate_BF.repeat_interleave(width_F, dim=1, output_size=block.shape[1]))

    def _rates(self, name: str, batch: Batch) -> Tensor:
        """One over how often each row's vector is looked up, [B]."""
        if name in self._single:
            return self.rate_R[batch.ids_FB[self._single[name]] + self._first[name]]
        if name not in self._owners:
            return self.rate_R.new_zeros(len(batch))
        column = bag_of(batch, name)
        rate_N = self.rate_R[column.values_N + self._first[name]]
        sum_B = rate_N.new_zeros(len(batch)).index_add(0, rows_of(column), rate_N)
        return sum_B / column.lengths_B.clamp(min=1)

    def _rates_of_items(self, name: str, batch: Batch) -> Tensor:
        """The same of each item of a sequence, [B, L]; zero for padding."""
        column = batch.sequences[name]
        index_LB, present_LB = positions(column, self._max_len[name])
        rate_LB = self.rate_R.new_zeros(index_LB.shape)
        rate_LB[present_LB] = self.rate_R[column.values_N[index_LB[present_LB]] + self._first[name]]
        return rate_LB.T


class _Decay(torch.autograd.Function):
    """The identity, whose gradient has `rate * vector` added to it."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, rate: Tensor) -> Tensor:
        ctx.save_for_backward(vector, rate)
        return vector.view_as(vector)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        vector, rate = ctx.saved_tensors
        return torch.addcmul(gradients[0], vector, rate), None


def _decay(vector: Tensor, rate: Tensor) -> Tensor:
    decaying: Tensor = _Decay.apply(vector, rate)  # type: ignore[no-untyped-call]
    return decaying
