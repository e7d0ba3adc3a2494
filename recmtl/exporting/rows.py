"""Rows of an embedding table in four precisions, read with operations that every runtime has.

Shape letters: V rows of the table, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

__all__ = ["TABLES", "TablePrecision", "TableRows", "pack"]

TablePrecision = Literal["fp32", "fp16", "int8", "int4"]
TABLES: tuple[TablePrecision, ...] = ("fp32", "fp16", "int8", "int4")
"""How rows are kept: as they are, as halves, or in 8 or 4 bits with a scale and an offset a row."""
_BLOCK_ROWS = 1 << 16
_STEPS = {"int8": 255, "int4": 15}
_LEAST_SCALE = 1e-30
"""The inverse of a smaller one might not be a number."""


class TableRows(nn.Module):
    """Ids of any shape to vectors of one table, in float32.

    Args:
        precision: how rows are kept.
        tensors: what `pack` made of the table.

    Example:
        >>> weight_VE = torch.tensor([[0.0, 0.0], [1.0, 256.0]])
        >>> TableRows("int8", pack(weight_VE, "int8"))(torch.tensor([1, 0])).tolist()
        [[1.0, 256.0], [0.0, 0.0]]
    """

    def __init__(self, precision: TablePrecision, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.precision = precision
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors ``[..., E]`` of ids ``[...]``."""
        if self.precision in ("fp32", "fp16"):
            return nnf.embedding(ids, self.get_buffer("weight")).float()
        codes = nnf.embedding(ids, self.get_buffer("codes")).float()
        if self.precision == "int4":  # in float, exactly: not every runtime shifts bytes
            high = (codes / 16).floor()
            codes = torch.cat([codes - 16 * high, high], dim=-1)
        scale = nnf.embedding(ids, self.get_buffer("scale"))
        return codes * scale + nnf.embedding(ids, self.get_buffer("offset"))


def pack(weight_VE: Tensor, precision: TablePrecision) -> dict[str, Tensor]:
    """The tensors that a table is kept as.

    `fp32` and `fp16` have a ``weight`` ``[V, E]``. `int8` has uint8 ``codes`` ``[V, E]`` and
    float32 ``scale`` and ``offset`` ``[V, 1]``: a number is code * scale + offset, where the offset
    is the row's smallest number and the scale a 255th of the row's range. In `int4` the scale is a
    15th, and byte e of ``codes`` ``[V, E / 2]`` holds the code of number e in its low half and that
    of number e + E / 2 in its high one.
    """
    if precision == "fp32":
        return {"weight": weight_VE}
    if precision == "fp16":
        return {"weight": weight_VE.half()}
    blocks = [_quantised(block, _STEPS[precision]) for block in weight_VE.split(_BLOCK_ROWS)]
    codes, scale, offset = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return {"codes": codes, "scale": scale, "offset": offset}


def _quantised(weight_VE: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    offset_V1 = weight_VE.amin(1, keepdim=True)
    scale_V1 = (weight_VE.amax(1, keepdim=True) - offset_V1) / steps
    has_range_V1 = scale_V1 > _LEAST_SCALE  # a row of one number has none
    per_step_V1 = torch.where(has_range_V1, 1 / scale_V1, 0.0)
    codes_VE = ((weight_VE - offset_V1) * per_step_V1).round().clamp(0, steps).to(torch.uint8)
    if steps == 15:
        low, high = codes_VE.chunk(2, dim=1)
        codes_VE = low | (high << 4)
    return codes_VE, scale_V1, offset_V1
