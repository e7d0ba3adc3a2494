"""PLE, and CGC as its one level: own experts, then shared ones; a shared stream below the top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.mlp import State, Vector, affine, expert, gate, head, mix, softmax


def ple_logits(
    state: State,
    x_BD: Tensor,
    tasks: Sequence[str],
    *,
    levels: Sequence[str],
    num_task_experts: int,
    num_shared_experts: int,
) -> Tensor:
    """Logits of every row, row by row.

    Args:
        state: the tower's state dict.
        x_BD: the input.
        tasks: names in order.
        levels: key prefix of each level, from the input up.
        num_task_experts: experts of each task, at each level.
        num_shared_experts: shared experts, at each level.
    """
    rows = []
    for x in x_BD.tolist():
        streams: dict[str | None, Vector] = dict.fromkeys(tasks, x) | {None: x}
        for level in levels:
            own = {
                task: [
                    expert(state, f"{level}.experts", task, i, streams[task])
                    for i in range(num_task_experts)
                ]
                for task in tasks
            }
            shared = [
                expert(state, f"{level}.experts", None, i, streams[None])
                for i in range(num_shared_experts)
            ]
            extracted: dict[str | None, Vector] = {}
            for task in tasks:
                weights = gate(state, f"{level}.gates", task, streams[task])
                extracted[task] = mix(weights, own[task] + shared)
            if level != levels[-1] and shared:
                weights = shared_gate(state, f"{level}.gates", tasks, streams[None])
                extracted[None] = mix(weights, [e for task in tasks for e in own[task]] + shared)
            streams = extracted
        rows.append([logit for task in tasks for logit in head(state, task, streams[task])])
    return torch.tensor(rows, dtype=torch.float64)


def shared_gate(state: State, prefix: str, tasks: Sequence[str], x: Vector) -> Vector:
    """Weights over [task 1's experts ... task T's experts; shared experts]."""
    if f"{prefix}.hidden.layers.0.shared_weight" in state:
        x = expert(state, f"{prefix}.hidden", None, 0, x)
    logits: Vector = []
    for task in tasks:
        if f"{prefix}.shared.task_weight.{task}" in state:
            bias = state.get(f"{prefix}.shared.task_bias.{task}")
            weight = state[f"{prefix}.shared.task_weight.{task}"].tolist()
            logits += affine(x, weight, None if bias is None else bias.tolist())
    bias = state.get(f"{prefix}.shared.rest_bias")
    weight = state[f"{prefix}.shared.rest_weight"].tolist()
    return softmax(logits + affine(x, weight, None if bias is None else bias.tolist()))
