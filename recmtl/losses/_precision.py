"""The precision that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["at_least_float32"]


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or untouched if wider: half precision is too coarse for logarithms."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
