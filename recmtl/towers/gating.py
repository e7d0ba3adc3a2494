"""Weights of gates over all experts, and the way back, for the hand-written form.

Shape letters: B rows, T tasks, M experts of each task, S shared experts, E = T * M + S all experts,
G gates, N logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Gates", "num_gates", "through_gates", "weights"]


class Gates(NamedTuple):
    """Which experts each gate weighs; their logits are the first layer's last columns."""

    num_tasks: int
    num_task_experts: int
    num_shared_experts: int
    has_shared_gate: bool


def num_gates(gates: Gates) -> int:
    """Number G of gates."""
    return gates.num_tasks + int(gates.has_shared_gate)


def _own(weight_BGE: Tensor, gates: Gates) -> Tensor:
    """The part of all gates over all experts where a task's gate weighs its own: (B, M, T)."""
    num_tasks, num_own = gates.num_tasks, gates.num_task_experts
    tasks_BTE = weight_BGE[:, :num_tasks, : num_tasks * num_own]
    split_BTTM = tasks_BTE.unflatten(2, (num_tasks, num_own))
    return torch.diagonal(split_BTTM, dim1=1, dim2=2)


def weights(gates: Gates, logits_BN: Tensor) -> Tensor:
    """Weights of all gates over all experts, ``(B, G, E)``.

    The softmax is over the middle of three dimensions with the rows last: over a short last one it
    takes ten times as long.
    """
    num_tasks, num_own, num_shared, has_shared_gate = gates
    num_read, num_all = num_own + num_shared, num_tasks * num_own + num_shared
    num_logits = num_tasks * num_read
    task_BTN = logits_BN[:, :num_logits].unflatten(1, (num_tasks, num_read))
    task_TNB = task_BTN.permute(1, 2, 0).softmax(dim=1)
    shape = (len(logits_BN), num_gates(gates), num_all)
    is_full = num_own == 0 and not has_shared_gate
    weight_BGE = logits_BN.new_empty(shape) if is_full else logits_BN.new_zeros(shape)
    weight_BGE[:, :num_tasks, num_all - num_shared :] = task_TNB[:, num_own:].permute(2, 0, 1)
    if num_own:
        _own(weight_BGE, gates).copy_(task_TNB[:, :num_own].permute(2, 1, 0))
    if has_shared_gate:
        weight_BGE[:, num_tasks] = logits_BN[:, num_logits:].T.softmax(dim=0).T
    return weight_BGE


def through_gates(
    gates: Gates, weight_BGE: Tensor, grad_BGE: Tensor, grad_logits_BN: Tensor
) -> None:
    """Write the gradient of the logits; that of the weights is used up."""
    num_tasks, num_own, num_shared, has_shared_gate = gates
    num_read = num_own + num_shared
    num_logits = num_tasks * num_read
    grad_BGE *= weight_BGE
    grad_BGE -= weight_BGE * grad_BGE.sum(dim=-1, keepdim=True)
    task_BTN = grad_logits_BN[:, :num_logits].unflatten(1, (num_tasks, num_read))
    task_BTN[..., num_own:] = grad_BGE[:, :num_tasks, num_tasks * num_own :]
    if num_own:
        task_BTN[..., :num_own] = _own(grad_BGE, gates).transpose(1, 2)
    if has_shared_gate:
        grad_logits_BN[:, num_logits:] = grad_BGE[:, num_tasks]
