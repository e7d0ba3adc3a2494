"""From a batch to the bags of ids that kernels sum up, and from their sums back to features.

Shape letters: B rows, F single-valued sparse features, K keys, N values, C columns of a kernel's
output, E embedding width, L sequence length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.batch import Batch, Ragged
from recmtl.embeddings.pooling import bag_of, finish_bag, positions
from recmtl.embeddings.tables import Layout

__all__ = ["BagOrder", "Bags", "Key"]


class Key(NamedTuple):
    """What has one bag a row: a feature, or one item of a sequence."""

    feature: str
    position: int = 0
    """Of the item in its sequence."""


class Bags(NamedTuple):
    """B bags for each key, key by key."""

    values_N: Tensor
    lengths_KB: Tensor | None
    """int64 number of values of each bag, flat; None where all have one."""
    weights_N: Tensor | None


class BagOrder:
    """A fixed order of keys, such as that in which a kernel looks features up."""

    def __init__(self, layout: Layout, keys: Sequence[Key]) -> None:
        """Find what stands together.

        Args:
            layout: the features.
            keys: the order; positions of a sequence are neighbours.
        """
        self._layout = layout
        self._bags = {bag.name: bag for bag in layout.bags}
        self._sequences = {sequence.name: sequence for sequence in layout.sequences}
        row = {feature.name: i for i, feature in enumerate(layout.single)}
        self._sources: list[slice | str] = []
        """Neighbouring rows of `ids_FB`, or the name of a list column."""
        for name in dict.fromkeys(key.feature for key in keys):
            before = self._sources[-1] if self._sources else None
            if name not in row:
                self._sources.append(name)
            elif isinstance(before, slice) and before.stop == row[name]:
                self._sources[-1] = slice(before.start, row[name] + 1)
            else:
                self._sources.append(slice(row[name], row[name] + 1))
        self._blocks, self._widths = self._neighbours(keys)

    def _neighbours(self, keys: Sequence[Key]) -> tuple[list[tuple[str, ...]], list[int]]:
        """Features that may stay in one tensor (in the order of the spec, sums), and its width."""
        dims = self._layout.dims
        place = {name: i for i, name in enumerate(self._layout.features)}
        apart = {bag.name for bag in self._layout.bags if bag.pooling == "mean"} | {
            *self._sequences
        }
        widths: dict[tuple[str, ...], int] = {}
        for name in dict.fromkeys(key.feature for key in keys):
            before = next(reversed(widths), ())
            width = dims[name] * sum(key.feature == name for key in keys)
            joins = before and place[name] == place[before[-1]] + 1
            if joins and name not in apart and before[-1] not in apart:
                width += widths.pop(before)
                widths[(*before, name)] = width
            else:
                widths[(name,)] = width
        return list(widths), list(widths.values())

    def bags(self, batch: Batch) -> Bags:
        """The batch's ids in this order."""
        first, *more = self._sources
        if isinstance(first, slice) and not more and not self._layout.is_weighted:
            return Bags(batch.ids_FB[first].flatten(), None, None)
        columns = [self._column(batch, source) for source in self._sources]
        values_N = _joined([column.values_N for column in columns])
        lengths_KB, weights_N = None, None
        if any(isinstance(source, str) for source in self._sources):
            lengths_KB = _joined([column.lengths_B for column in columns])
        if self._layout.is_weighted:
            weights_N = _joined(
                [
                    torch.ones_like(c.values_N, dtype=torch.float32)
                    if c.weights_N is None
                    else c.weights_N
                    for c in columns
                ]
            )
        return Bags(values_N, lengths_KB, weights_N)

    def _column(self, batch: Batch, source: slice | str) -> Ragged:
        """The bags of neighbouring keys, one after the other."""
        if isinstance(source, slice):
            ids_N = batch.ids_FB[source].flatten()
            return Ragged(ids_N, torch.ones_like(ids_N))
        if source in self._sequences:
            column = batch.sequences[source]
            index_LB, present_LB = positions(column, self._sequences[source].max_len)
            return Ragged(
                column.values_N[index_LB[present_LB]], present_LB.flatten().to(torch.int64)
            )
        column = bag_of(batch, source)
        return column if self._bags[source].weighted else column._replace(weights_N=None)

    def vectors(self, sums_BC: Tensor, batch: Batch) -> dict[tuple[str, ...], Tensor]:
        """Neighbouring features -> their vectors side by side; means and sequences are alone.

        Args:
            sums_BC: those of each key, in this order.
            batch: what was looked up.
        """
        is_whole = len(self._widths) == 1
        pieces = [sums_BC] if is_whole else sums_BC.split(self._widths, dim=1)
        found = dict(zip(self._blocks, pieces, strict=True))
        for name in (members[0] for members in self._blocks):
            if name in self._bags and self._bags[name].pooling == "mean":
                found[(name,)] = finish_bag(self._bags[name], bag_of(batch, name), found[(name,)])
            elif name in self._sequences:
                max_len = self._sequences[name].max_len
                found[(name,)] = found[(name,)].view(len(batch), max_len, -1)
        return found


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
