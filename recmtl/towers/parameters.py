"""How parameters are kept and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["by_task", "uniform_"]


def by_task(parameters: Mapping[str, nn.Parameter]) -> nn.ParameterDict:
    """Parameters under their tasks' names, in the order given.

    `nn.ParameterDict` would sort a plain dict by name, so they are put in one by one.
    """
    kept = nn.ParameterDict()
    for task, parameter in parameters.items():
        kept[task] = parameter
    return kept


def uniform_(weight: Tensor, *, fan_in: int, gain: float = 1.0) -> nn.Parameter:
    """A parameter drawn uniformly within gain / sqrt(fan_in), as `torch.nn.Linear` does."""
    bound = gain / math.sqrt(fan_in)
    return nn.Parameter(weight.uniform_(-bound, bound))
