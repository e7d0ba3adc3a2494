"""Shared bottom: z_t = h_t(f(x))."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.mlp import State, expert, head


def shared_bottom_logits(state: State, x_BD: Tensor, tasks: Sequence[str]) -> Tensor:
    """Logits of every row, row by row."""
    rows = []
    for x in x_BD.tolist():
        bottom = expert(state, "experts", None, 0, x)
        rows.append([logit for task in tasks for logit in head(state, task, bottom)])
    return torch.tensor(rows, dtype=torch.float64)
