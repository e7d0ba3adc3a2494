"""Prior: a normal prior on every row of a table, as a decay where the row is looked up.

Shape letters: B rows, F features of a block, C columns of a block, E embedding width, L sequence
length, R rows of all tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recmtl.batch import Batch
from recmtl.embeddings.pooling import positions
from recmtl.embeddings.tables import Layout
from recmtl.embeddings.vectors import Vectors

__all__ = ["Prior"]

_Runs = tuple[tuple[int, int], ...]


class Prior(nn.Module):
    r"""What the rows of tables would be if nothing were known: zero, with some precision.

    The loss summed over all training rows is to have, for each row v of each table,

    .. math:: \frac{\lambda}{2} \lVert v \rVert^2

    once, however often v is looked up. In the mean loss of a batch of weight W, that is a gradient
    of :math:`\lambda v / (n_v W)` at each of its lookups, where :math:`n_v` is how often v is
    looked up in the training rows. It is added where the vectors' gradient passes by, so that the
    loss is that of the tasks. A table that several features share decays where its owner looks it
    up; where the owner is a list that is pooled, whose items are not seen one by one, not at all.

    Example:
        >>> from recmtl.embeddings.tables import SingleFeature, Table
        >>> tables = (Table("user", 3, 2, ("user",)),)
        >>> layout = Layout(tables, (SingleFeature("user", "user"),), (), (), ("user",))
        >>> prior = Prior(layout, {"user": np.array([1, 4, 8])})
        >>> prior.rate_R
        tensor([1.0000, 0.2500, 0.1250])
    """

    rate_R: Tensor

    def __init__(self, layout: Layout, counts: Mapping[str, NDArray[Any]]) -> None:
        """Keep how fast each row decays.

        Args:
            layout: features and tables.
            counts: table -> how often its owner looks each row up in the training rows; below one
                counts as one.
        """
        super().__init__()
        rates = [1.0 / np.maximum(counts[t.name], 1).astype(np.float32) for t in layout.tables]
        self.register_buffer("rate_R", torch.from_numpy(np.concatenate(rates)), persistent=False)
        firsts = accumulate((t.num_embeddings for t in layout.tables), initial=0)
        self._first = {t.name: first for t, first in zip(layout.tables, firsts, strict=False)}
        self._place = {f.name: i for i, f in enumerate(layout.single)}
        self._max_len = {s.name: s.max_len for s in layout.sequences}
        self._owners = frozenset(self._first) & (self._place.keys() | self._max_len.keys())
        self._dims = layout.dims
        self._indices: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def forward(self, vectors: Vectors, batch: Batch, scale: Tensor) -> Vectors:
        r"""The same vectors, which will decay in backward.

        Args:
            vectors: what was looked up for the batch.
            batch: the batch; rows of weight 0 decay nothing.
            scale: :math:`\lambda / W`.
        """
        scale_B = scale * (batch.weight_B > 0)
        return vectors.map_blocks(lambda names, block: self._decaying(names, block, batch, scale_B))

    def _decaying(
        self, names: tuple[str, ...], block: Tensor, batch: Batch, scale_B: Tensor
    ) -> Tensor:
        if self._owners.isdisjoint(names):
            return block
        if block.dim() == 3:
            rate_BL = self._rates_of_items(names[0], batch) * scale_B.unsqueeze(1)
            run = (block.shape[2], block.shape[1])
            return _decay(block.flatten(1), rate_BL, (run,)).view_as(block)
        rate_FB = self._rates(names, batch)
        widths = tuple(
            (width, len([*same])) for width, same in groupby(names, self._dims.__getitem__)
        )
        return _decay(block, rate_FB.mul_(scale_B).T, widths)

    def _rates(self, names: tuple[str, ...], batch: Batch) -> Tensor:
        """One over how often each row's vector is looked up, [F, B]: one gather for all owners.

        Zero where nothing decays.
        """
        own = [f for f, name in enumerate(names) if name in self._owners]
        if names not in self._indices:
            place_F = torch.tensor([self._place[names[f]] for f in own])
            first_F1 = torch.tensor([[self._first[names[f]]] for f in own])
            device = self.rate_R.device
            self._indices[names] = place_F.to(device), first_F1.to(device)
        place_F, first_F1 = self._indices[names]
        rows_FB = batch.ids_FB[place_F] + first_F1
        rate_FB = self.rate_R.index_select(0, rows_FB.view(-1)).view(rows_FB.shape)
        if len(own) == len(names):
            return rate_FB
        every_FB = rate_FB.new_zeros(len(names), len(batch))
        every_FB[own] = rate_FB
        return every_FB

    def _rates_of_items(self, name: str, batch: Batch) -> Tensor:
        """The same of each item of a sequence, [B, L]; zero for padding."""
        column = batch.sequences[name]
        index_LB, present_LB = positions(column, self._max_len[name])
        rate_LB = self.rate_R.new_zeros(index_LB.shape)
        rate_LB[present_LB] = self.rate_R[column.values_N[index_LB[present_LB]] + self._first[name]]
        return rate_LB.T


class _Decay(torch.autograd.Function):
    """The identity, whose gradient has `rate * vector` added to it.

    The columns are runs of vectors of one width: `(width, how many)` each.
    """

    @staticmethod
    def forward(ctx: Any, block_BC: Tensor, rate_BF: Tensor, runs: _Runs) -> Tensor:
        ctx.save_for_backward(block_BC, rate_BF)
        ctx.runs = runs
        return block_BC.view_as(block_BC)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        block_BC, rate_BF = ctx.saved_tensors
        (gradient_BC,), found_BC = gradients, torch.empty_like(block_BC)
        column = feature = 0
        for width, count in ctx.runs:
            stop = column + width * count
            gradient, block, found = (
                x[:, column:stop].unflatten(1, (count, width))
                for x in (gradient_BC, block_BC, found_BC)
            )
            rate_BF1 = rate_BF[:, feature : feature + count].unsqueeze(2)
            torch.addcmul(gradient, block, rate_BF1, out=found)
            column, feature = stop, feature + count
        return found_BC, None, None


def _decay(block_BC: Tensor, rate_BF: Tensor, runs: _Runs) -> Tensor:
    decaying: Tensor = _Decay.apply(block_BC, rate_BF, runs)  # type: ignore[no-untyped-call]
    return decaying
