"""One traced program, from which three formats are made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from recmtl.exporting.inputs import ROWS, ModelInput
from recmtl.exporting.net import ServingNet

__all__ = ["traced"]

_ROWS, _VALUES = 5, 3
"""Sizes while tracing: what is 1 there would be taken for a size that is always 1."""


def traced(net: ServingNet) -> ExportedProgram:
    """The net as a program of plain operations, for any number of rows and values from 1 on."""
    sizes: dict[str, Dim] = {}
    shapes: dict[str, dict[int, Dim]] = {}
    for each in net.inputs:
        shapes[each.name] = {
            i: sizes.setdefault(size, _dim(size, len(sizes)))
            for i, size in enumerate(each.shape)
            if isinstance(size, str)
        }
    with torch.no_grad():
        return torch.export.export(
            net, (_example(net.inputs),), dynamic_shapes=(shapes,), strict=False
        )


def _dim(size: str, number: int) -> Dim:
    return Dim(ROWS if size == ROWS else f"values_{number}", min=1)


def _example(inputs: Sequence[ModelInput]) -> dict[str, Tensor]:
    return {
        each.name: torch.zeros(
            [
                size if isinstance(size, int) else _ROWS if size == ROWS else _VALUES
                for size in each.shape
            ],
            dtype=each.dtype,
        )
        for each in inputs
    }
