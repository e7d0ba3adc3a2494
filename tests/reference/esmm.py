"""ESMM's networks: z_t = h_t(x), nothing shared but the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.mlp import State, head


def esmm_logits(state: State, x_BD: Tensor, tasks: Sequence[str]) -> Tensor:
    """Logits of every row, row by row."""
    rows = [[logit for task in tasks for logit in head(state, task, x)] for x in x_BD.tolist()]
    return torch.tensor(rows, dtype=torch.float64)
