"""One chunk of rows through experts, gates and mixture, forward and backward, by hand.

What is computed is `recmtl.towers.chunked`'s; here it is done with as few passes over memory as
there can be. Matrix products take the inputs' type; where that is bfloat16, gates are weighed and
gradients of weights are summed in float32.

Shape letters: B rows of a chunk, D input width, K inputs of a block, T tasks, M experts of each
task, S shared experts, E = T * M + S all experts, G gates, N columns, O a layer's width, H the last
layer's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.towers.gating import Gates, through_gates, weights

__all__ = ["Block", "Plan", "Scratch", "backward", "forward", "inputs"]


class Block(NamedTuple):
    """Products of the first layer that are run as one batch.

    Attributes:
        groups: first and last + 1 of the inputs ``x_BGD`` read; None where the input is ``x_BD``.
        columns: first and last + 1 of the columns written: of equal share for each input.
    """

    groups: tuple[int, int] | None
    columns: tuple[int, int]


class Plan(NamedTuple):
    """What is computed.

    Attributes:
        num_experts: number E.
        width: width O of each expert's first layer.
        columns: columns of the first layer: E * O of experts, then logits of gates.
        blocks: the first layer's products; those that read the same inputs may follow another.
        gates: None: the result is the experts' outputs ``(B, E, H)``; else each gate's mixture.
        is_linear_last: whether no ReLU follows the last layer; there are no gates then.
    """

    num_experts: int
    width: int
    columns: int
    blocks: tuple[Block, ...]
    gates: Gates | None = None
    is_linear_last: bool = False

    @property
    def is_result_needed(self) -> bool:
        """Whether the backward of the last ReLU reads the result."""
        return self.gates is None and not self.is_linear_last


class Scratch:
    """Memory for what one chunk needs, the same for every chunk."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype, self._kept = dtype, dict[str, Tensor]()

    def get(self, name: str, *shape: int) -> Tensor:
        """Memory of this shape with anything in it."""
        size = math.prod(shape)
        if name not in self._kept or len(self._kept[name]) < size:
            self._kept[name] = torch.empty(size, dtype=self._dtype, device="cpu")
        return self._kept[name][:size].view(shape)


def forward(plan: Plan, x: Tensor, tensors: tuple[Tensor, ...], out: Tensor) -> list[Tensor]:
    """Write a chunk's result; return the activations of every layer but that, and the gates'."""
    num_rows, num_experts, num_first = x.shape[0], plan.num_experts, 2 * len(plan.blocks)
    later, x = tensors[num_first:], x.to(tensors[0].dtype)
    writes_out = plan.gates is None and not later
    first = out.flatten(1) if writes_out else x.new_empty(num_rows, plan.columns)
    for i, block in enumerate(plan.blocks):
        weight_KDN, bias_KN = tensors[2 * i], tensors[2 * i + 1]
        _affine(inputs(x, block.groups), weight_KDN, bias_KN, _columns(first, block, weight_KDN))
    hidden_EBO = _split(first[:, : num_experts * plan.width].relu_(), num_experts)
    kept = [] if writes_out else [first]
    for i in range(0, len(later), 2):
        is_last = i + 2 == len(later)
        is_out = is_last and plan.is_result_needed
        shape = num_experts, num_rows, later[i].shape[2]
        next_EBO = out.transpose(0, 1) if is_out else x.new_empty(shape)
        torch.baddbmm(later[i + 1].unsqueeze(1), hidden_EBO, later[i], out=next_EBO)
        if is_last and plan.is_linear_last:
            out.copy_(next_EBO.transpose(0, 1))
            break
        hidden_EBO = next_EBO.relu_()
        if not is_out:
            kept.append(hidden_EBO)
    if plan.gates is not None:
        weight_BGE = weights(plan.gates, _widened(first[:, num_experts * plan.width :]))
        torch.bmm(weight_BGE.to(x.dtype), hidden_EBO.transpose(0, 1), out=out)
        kept.append(weight_BGE)
    return kept


def backward(
    plan: Plan,
    x: Tensor,
    tensors: list[Tensor],
    activations: list[Tensor],
    grad: Tensor,
    grads: list[Tensor | None],
    grad_x: Tensor | None,
    scratch: Scratch,
    *,
    adds: bool,
) -> None:
    """Write or add a chunk's part of the gradients of weights and biases; write its inputs'."""
    num_rows, num_experts, num_first = x.shape[0], plan.num_experts, 2 * len(plan.blocks)
    num_hidden, dtype = num_experts * plan.width, tensors[0].dtype
    grad_first = scratch.get("first", num_rows, plan.columns)
    hidden, num_later = list(activations), (len(tensors) - num_first) // 2
    weight_BGE = None if plan.gates is None else hidden.pop()
    if plan.is_result_needed:
        hidden[-1] = hidden[-1].transpose(0, 1)
    if num_later or plan.gates is not None:
        hidden[0] = _split(hidden[0][:, :num_hidden], num_experts)

    def grad_of(layer: int) -> Tensor:
        if layer == 0:
            return _split(grad_first[:, :num_hidden], num_experts)
        return scratch.get(f"{layer}", num_experts, num_rows, hidden[layer].shape[2])

    if plan.gates is not None:
        assert weight_BGE is not None
        grad_BGE = _widened(torch.bmm(grad, hidden[-1].permute(1, 2, 0)))
        through_gates(plan.gates, weight_BGE, grad_BGE, grad_first[:, num_hidden:])
        grad = torch.bmm(weight_BGE.to(dtype).transpose(1, 2), grad)
    if plan.is_linear_last:
        grad_EBO = grad.transpose(0, 1).contiguous()
    else:
        grad_EBO = grad_of(num_later)
        _through_relu(grad.transpose(0, 1), hidden[-1], grad_EBO)
    for layer in range(num_later, 0, -1):
        at = num_first + 2 * (layer - 1)
        _add_weight_grads(hidden[layer - 1], grad_EBO, grads[at : at + 2], scratch, adds=adds)
        below_EBO = grad_of(layer - 1)
        # A product over one column is slow as a matrix product.
        multiply = torch.mul if grad_EBO.shape[2] == 1 else torch.bmm
        product_EBO = below_EBO
        if dtype == torch.bfloat16:  # whose batches are written in one piece, then copied
            product_EBO = scratch.get("below", *below_EBO.shape)
        multiply(grad_EBO, tensors[at].transpose(1, 2), out=product_EBO)
        _through_relu(product_EBO, hidden[layer - 1], below_EBO)
        grad_EBO = below_EBO
    x, written = x.to(dtype), set[tuple[int, int] | None]()
    part_x = grad_x
    if grad_x is not None and grad_x.dtype != dtype:
        part_x = scratch.get("x", *grad_x.shape)
    for i, block in enumerate(plan.blocks):
        weight_KDN = tensors[2 * i]
        grad_KBN = _columns(grad_first, block, weight_KDN)
        _add_weight_grads(
            inputs(x, block.groups), grad_KBN, grads[2 * i : 2 * i + 2], scratch, adds=adds
        )
        if part_x is not None:
            out_KBD = inputs(part_x, block.groups)
            _product(grad_KBN, weight_KDN.transpose(1, 2), out_KBD, adds=block.groups in written)
            written.add(block.groups)
    if grad_x is not None and part_x is not grad_x:
        assert part_x is not None
        for groups in written:
            inputs(grad_x, groups).copy_(inputs(part_x, groups))


def _through_relu(grad: Tensor, activation: Tensor, out: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(grad, activation, 0, grad_input=out)


def _affine(x_KBD: Tensor, weight_KDN: Tensor, bias_KN: Tensor, out_KBN: Tensor) -> None:
    if weight_KDN.shape[0] == 1:
        torch.addmm(bias_KN[0], x_KBD[0], weight_KDN[0], out=out_KBN[0])
    else:
        torch.baddbmm(bias_KN.unsqueeze(1), x_KBD, weight_KDN, out=out_KBN)


def _product(a_KIJ: Tensor, b_KJN: Tensor, out_KIN: Tensor, *, adds: bool) -> None:
    """Write, or add, the product; one matrix alone is not a batch, whose threads would idle."""
    if a_KIJ.shape[0] == 1:
        out_KIN[0].addmm_(a_KIJ[0], b_KJN[0], beta=float(adds))
    else:
        out_KIN.baddbmm_(a_KIJ, b_KJN, beta=float(adds))


def _add_weight_grads(
    x_KBD: Tensor,
    grad_KBN: Tensor,
    grads: list[Tensor | None],
    scratch: Scratch,
    *,
    adds: bool,
) -> None:
    grad_weight_KDN, grad_bias_KN = grads
    if grad_bias_KN is not None:
        if adds:
            grad_bias_KN += grad_KBN.sum(dim=1)
        else:
            grad_bias_KN.copy_(grad_KBN.sum(dim=1))
    if grad_weight_KDN is None:
        return
    if grad_weight_KDN.dtype != x_KBD.dtype:
        part_KDN = scratch.get("part", *grad_weight_KDN.shape)
        # In bfloat16 a batch whose rows lie apart takes twice as long.
        _weight_grads(x_KBD.contiguous(), grad_KBN, part_KDN, adds=False)
        (grad_weight_KDN.add_ if adds else grad_weight_KDN.copy_)(part_KDN)
    else:
        _weight_grads(x_KBD, grad_KBN, grad_weight_KDN, adds=adds)


def _weight_grads(x_KBD: Tensor, grad_KBN: Tensor, out_KDN: Tensor, *, adds: bool) -> None:
    if grad_KBN.shape[2] == 1:
        _product(grad_KBN.transpose(1, 2), x_KBD, out_KDN.transpose(1, 2), adds=adds)
    else:
        _product(x_KBD.transpose(1, 2), grad_KBN, out_KDN, adds=adds)


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.bfloat16 else values


def inputs(x: Tensor, groups: tuple[int, int] | None) -> Tensor:
    """The inputs of a block, ``(K, B, D)``."""
    return x.unsqueeze(0) if groups is None else x[:, groups[0] : groups[1]].transpose(0, 1)


def _columns(first: Tensor, block: Block, weight_KDN: Tensor) -> Tensor:
    """A block's part of the first layer's columns, ``(K, B, N)``."""
    return _split(first[:, block.columns[0] : block.columns[1]], weight_KDN.shape[0])


def _split(columns: Tensor, parts: int) -> Tensor:
    """Equal parts of the columns, ``(parts, B, N)``."""
    rows, width = columns.shape
    return columns.view(rows, parts, width // parts).transpose(0, 1)
