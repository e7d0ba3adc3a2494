"""MMoE: z_t = h_t(sum_e g_t(x)_e f_e(x)), g_t(x) = softmax(W_t x)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.mlp import State, expert, gate, head, mix


def mmoe_logits(state: State, x_BD: Tensor, tasks: Sequence[str], *, num_experts: int) -> Tensor:
    """Logits of every row, row by row."""
    rows = []
    for x in x_BD.tolist():
        experts = [expert(state, "experts", None, e, x) for e in range(num_experts)]
        row = []
        for task in tasks:
            row += head(state, task, mix(gate(state, "gates", task, x), experts))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)
