"""ScoringNet: Batch -> logits, with everything done beforehand that does not depend on the rows.

Shape letters: B rows, F features, E embedding width, W width of the tower's first layers, V rows
of the folded tables, X width of what is multiplied with them, Q width of what is quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from recmtl._cpu import multiplies_bf16
from recmtl.batch import Batch
from recmtl.embeddings import PlainLookup
from recmtl.embeddings.pooling import bag_of
from recmtl.models import MultiTaskNet
from recmtl.models.frozen import FrozenTower, freeze

__all__ = ["MOST_ROWS", "ScoringNet"]

MOST_ROWS = 4096
_LEAST_ROWS = 1024
_PASS_FLOATS = 1 << 20
"""Outputs of the first layers in one pass: 4 MiB."""

FOLD_BYTES = 16 * 2**20
"""Folded tables stay in the caches."""
_BLOCK_ROWS = 1 << 16
_KEPT_BYTES = 31 * 2**20
_LEAST_STEP = 1e-30
"""Of bytes: a column of zeros has no largest value, and its inverse must be a number."""
_LEAST_FOLDED_DIM = 8
"""A narrower vector costs less to multiply than its product costs to read."""


class ScoringNet:
    """A trained net for inference, equal to it within rounding.

    Fields of small tables are folded: their tables are multiplied with the first layers' weights
    once, and a row adds up rows of those products. All other fields are gathered side by side,
    straight into what is multiplied. With int8 tables they are multiplied as bytes too, and
    experts' later layers as bfloat16 where the CPU has instructions for that. Towers that
    take more than one vector a row, or that have no such form, run as they are.

    Attributes:
        rows: rows of a pass.

    Args:
        net: a net in evaluation mode, with a `PlainLookup`.
        rows: rows of a pass (default: as many as make a good one: of wide first layers fewer, which
            stay in the caches; a power of two).
        fold_bytes: most memory of folded tables.
    """

    def __init__(
        self, net: MultiTaskNet, *, rows: int | None = None, fold_bytes: int = FOLD_BYTES
    ) -> None:
        assert isinstance(net.lookup, PlainLookup)
        _keep_blocks()
        self.net = net
        self.lookup = net.lookup
        in_bf16 = net.lookup.precision == "int8" and multiplies_bf16()
        frozen = freeze(net.tower, in_bf16=in_bf16) if net.inputs.is_plain else None
        self.first = None if frozen is None else FirstLayers(self.lookup, frozen, fold_bytes)
        self.rows = _good_rows(frozen) if rows is None else rows

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Tensor:
        """Logits ``[B, H]``."""
        if self.first is None:
            logits_BH: Tensor = self.net(batch)
            return logits_BH
        return self.first.tower(self.first(batch))


def _good_rows(frozen: FrozenTower | None) -> int:
    rows = MOST_ROWS
    while frozen and rows > _LEAST_ROWS and rows * len(frozen.bias_W) > _PASS_FLOATS:
        rows //= 2
    return rows


class FirstLayers:
    """The first layers' outputs ``[B, W]`` of a batch."""

    def __init__(self, lookup: PlainLookup, tower: FrozenTower, fold_bytes: int) -> None:
        layout, dims = lookup.layout, lookup.layout.dims
        self.lookup, self.tower = lookup, tower
        num_dense = len(tower.weight_DW) - sum(dims.values())
        widths = [num_dense, *(dims[name] for name in layout.features)]
        names = ["", *layout.features]  # dense features have no name here
        weights = dict(zip(names, tower.weight_DW.split(widths), strict=True))
        folded = _folded(lookup, tower.weight_DW.shape[1], fold_bytes)
        self.folded_F, self.folded_VW, self.first_F1 = self._fold(folded, weights)
        singles: dict[str, list[int]] = {}
        for i, feature in enumerate(layout.single):
            if i not in folded:
                singles.setdefault(lookup.place(feature.table)[0], []).append(i)
        self.singles = [
            (
                group,
                torch.tensor(members),
                torch.tensor([[lookup.place(layout.single[i].table)[1]] for i in members]),
            )
            for group, members in singles.items()
        ]
        in_groups = [layout.single[i].name for members in singles.values() for i in members]
        self.bags = layout.with_means().bags
        others = ["", *(bag.name for bag in self.bags)]
        self.bytes_Q: _Bytes | None = None
        if lookup.precision == "int8" and in_groups:
            tables = [f.table for name in in_groups for f in layout.single if f.name == name]
            weight_QW = torch.cat([weights[name] for name in in_groups])
            self.bytes_Q = _Bytes(weight_QW, torch.cat([_most(lookup, t) for t in tables]))
            in_groups = []
        self.weight_XW = torch.cat([weights[name] for name in (*others, *in_groups)])

    def __call__(self, batch: Batch) -> Tensor:
        if not len(self.folded_F):
            wide_BW = self.tower.bias_W.repeat(len(batch), 1)
        else:
            rows_BF = (batch.ids_FB[self.folded_F] + self.first_F1).T
            wide_BW = nnf.embedding_bag(rows_BF, self.folded_VW, mode="sum")
        singles = [
            self.lookup.gather(group, (batch.ids_FB[members] + first_F1).T).flatten(1)
            for group, members, first_F1 in self.singles
        ]
        parts = [batch.dense_DB.T] if len(batch.dense_DB) else []
        parts += [self.lookup.pooled(bag, bag_of(batch, bag.name)) for bag in self.bags]
        if self.bytes_Q is None:
            parts += singles
        if parts:
            wide_BW.addmm_(torch.cat(parts, dim=1), self.weight_XW)
        if self.bytes_Q is not None:
            self.bytes_Q.add_to(wide_BW, torch.cat(singles, dim=1))
        return wide_BW

    def _fold(
        self, folded: Sequence[int], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of the folded fields, their products, and the first row of each."""
        products, first_rows, first_row = [], [], 0
        for i in folded:
            feature = self.lookup.layout.single[i]
            products.append(_table(self.lookup, feature.table) @ weights[feature.name])
            first_rows.append([first_row])
            first_row += len(products[-1])
        if products:
            products[0] += self.tower.bias_W
        width = self.tower.weight_DW.shape[1]
        folded_VW = torch.cat(products) if products else torch.zeros(0, width)
        return torch.tensor(folded), folded_VW, torch.tensor(first_rows)


class _Bytes:
    """A product of float32 vectors whose columns have known bounds, made of bytes.

    Args:
        weight_QW: weights.
        most_Q: the largest absolute value of each column of the vectors.
    """

    def __init__(self, weight_QW: Tensor, most_Q: Tensor) -> None:
        step_Q = most_Q.clamp(min=_LEAST_STEP) / 127
        self.per_step_Q = 1 / step_Q
        scaled_QW = weight_QW * step_Q.unsqueeze(1)
        self.scale_W = scaled_QW.abs().amax(0).clamp(min=_LEAST_STEP) / 127
        self.weight_QW = (scaled_QW / self.scale_W).round().to(torch.int8)

    def add_to(self, wide_BW: Tensor, x_BQ: Tensor) -> None:
        """Add the product to `wide_BW`."""
        bytes_BQ = (x_BQ * self.per_step_Q).round_().to(torch.int8)
        wide_BW.addcmul_(torch._int_mm(bytes_BQ, self.weight_QW).float(), self.scale_W)


def _keep_blocks() -> None:
    """Let the C library keep what a pass frees for the next one, where it learns (glibc).

    Once a block of up to 32 MiB is freed, blocks of its size come from the heap ever after, and as
    much as two of them stays there. Otherwise each pass may get its memory anew from the system,
    page by page, which takes up to a third of its time.
    """
    torch.empty(_KEPT_BYTES, dtype=torch.uint8)


def _folded(lookup: PlainLookup, width: int, fold_bytes: int) -> list[int]:
    """Fields to fold: those of the smallest tables, as many as there is room for."""
    tables = {table.name: table for table in lookup.layout.tables}
    sizes = {
        i: 4 * width * tables[feature.table].num_embeddings
        for i, feature in enumerate(lookup.layout.single)
        if tables[feature.table].embedding_dim >= _LEAST_FOLDED_DIM
    }
    found: list[int] = []
    for i in sorted(sizes, key=sizes.__getitem__):
        fold_bytes -= sizes[i]
        if fold_bytes < 0:
            break
        found.append(i)
    return sorted(found)


def _blocks(lookup: PlainLookup, name: str) -> Iterator[Tensor]:
    """A table as it is looked up, piece by piece."""
    (table,) = (table for table in lookup.layout.tables if table.name == name)
    group, first_row = lookup.place(name)
    for start in range(0, table.num_embeddings, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, table.num_embeddings)
        yield lookup.gather(group, torch.arange(first_row + start, first_row + stop))


def _table(lookup: PlainLookup, name: str) -> Tensor:
    return torch.cat(list(_blocks(lookup, name)))


def _most(lookup: PlainLookup, name: str) -> Tensor:
    """The largest absolute value of each column of a table."""
    return torch.stack([rows.abs().amax(0) for rows in _blocks(lookup, name)]).amax(0)
