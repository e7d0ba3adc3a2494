"""Experts, gates and mixture forward and backward by hand, a chunk of rows at a time, on the CPU.

The products are those of the plain form. What is saved is what lies between them: copies for
transposed layouts, passes over activations that have left the cache, memory that is given out and
taken back. Everywhere else (CUDA, autocast, tracing, compiling) the plain form is as good.

Shape letters: B rows of a chunk, D input width, K inputs of a block, T tasks, M experts of each
task, S shared experts, E = T * M + S all experts, G gates, N columns, O a layer's width, H the last
layer's.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recmtl.towers.gating import Gates, num_gates, through_gates, weights

__all__ = ["Block", "Plan", "can_run", "plain", "run"]

_CHUNK_FLOATS = 1 << 20
"""Activations of the widest layer that one thread works on at a time: 4 MiB of float32."""
_LEAST_ROWS = 128
"""Matrix products of fewer rows are slow."""


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


def can_run(x: Tensor, weight: Tensor, columns: int) -> bool:
    """Whether it pays and can be done.

    It pays where the first layer's columns would fill the cache. It cannot be done where somebody
    watches the single operations: tracing, compiling, autocast, function transforms.

    Args:
        x: the input.
        weight: any of the weights.
        columns: columns of the first layer.
    """
    return (
        type(x) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[0] * columns >= _CHUNK_FLOATS
    )


def run(plan: Plan, x: Tensor, first: list[Tensor], later: list[Tensor]) -> Tensor:
    """Experts' outputs ``(B, E, H)``, or mixtures ``(B, G, H)``.

    Args:
        plan: what is computed.
        x: ``(B, D)`` or ``(B, G, D)``.
        first: weight ``(K, D, N)`` and bias ``(K, N)`` of each block.
        later: weight ``(E, I, O)`` and bias ``(E, O)`` of each later layer.
    """
    tensors = (*first, *later)
    if not torch.is_grad_enabled():
        return _evaluate(plan, x, tensors, keeps=False)[0]
    result: Tensor = _Chunked.apply(plan, x, *tensors)  # type: ignore[no-untyped-call]
    return result


def plain(plan: Plan, x: Tensor, *tensors: Tensor) -> Tensor:
    """What `run` computes, as autograd writes it; the tensors are those of first and later."""
    num_first, parts = 2 * len(plan.blocks), list[Tensor]()
    for block, weight_KDN, bias_KN in zip(
        plan.blocks, tensors[:num_first:2], tensors[1:num_first:2], strict=True
    ):
        out_KBN = torch.baddbmm(bias_KN.unsqueeze(1), _inputs(x, block), weight_KDN)
        parts.append(out_KBN.transpose(0, 1).flatten(1))
    first = torch.cat(parts, dim=1)
    end = plan.num_experts * plan.width
    out_BEO = first[:, :end].unflatten(1, (plan.num_experts, plan.width)).relu()
    for i in range(num_first, len(tensors), 2):
        bias_E1O = tensors[i + 1].unsqueeze(1)
        out_EBO = torch.baddbmm(bias_E1O, out_BEO.transpose(0, 1), tensors[i])
        is_linear = plan.is_linear_last and i + 2 == len(tensors)
        out_BEO = (out_EBO if is_linear else out_EBO.relu()).transpose(0, 1)
    return (
        out_BEO if plan.gates is None else torch.bmm(weights(plan.gates, first[:, end:]), out_BEO)
    )


class _Chunked(torch.autograd.Function):
    """The function of `run`."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, *tensors: Tensor) -> Tensor:
        out, kept = _evaluate(plan, x, tensors, keeps=True)
        ctx.plan, ctx.num_tensors = plan, len(tensors)
        ctx.save_for_backward(x, out if plan.is_result_needed else None, *tensors, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, count = ctx.plan, ctx.num_tensors
        x, out, *saved = ctx.saved_tensors
        tensors, kept = saved[:count], saved[count:]
        is_needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return _twice(plan, (x, *tensors), is_needed, grad)
        grads = [
            tensor.new_empty(tensor.shape) if needed else None
            for tensor, needed in zip(tensors, is_needed[1:], strict=True)
        ]
        grad_x = None
        if is_needed[0]:
            make = x.new_empty if _reads_all(plan, x) else x.new_zeros
            grad_x = make(x.shape)
        chunks = _chunks(x.shape[0], plan.columns)
        scratch = _Scratch(x)
        per_chunk = len(kept) // len(chunks)
        for i, (start, stop) in enumerate(chunks):
            activations = kept[i * per_chunk : (i + 1) * per_chunk]
            if out is not None:
                activations.append(out[start:stop])
            _backward(
                plan,
                x[start:stop],
                tensors,
                activations,
                grad[start:stop],
                grads,
                None if grad_x is None else grad_x[start:stop],
                scratch,
                adds=start > 0,
            )
        return None, grad_x, *grads


def _evaluate(
    plan: Plan, x: Tensor, tensors: tuple[Tensor, ...], *, keeps: bool
) -> tuple[Tensor, list[Tensor]]:
    """The result and, if they are to be kept, every chunk's activations one after another."""
    num_rows = x.shape[0]
    last_dim = tensors[-1].shape[1] if len(tensors) > 2 * len(plan.blocks) else plan.width
    num_out = plan.num_experts if plan.gates is None else num_gates(plan.gates)
    out, kept = x.new_empty(num_rows, num_out, last_dim), list[Tensor]()
    for start, stop in _chunks(num_rows, plan.columns):
        activations = _forward(plan, x[start:stop], tensors, out[start:stop])
        if keeps:
            kept += activations
    return out, kept


class _Scratch:
    """Memory for gradients of activations, the same for every chunk; the first is the largest."""

    def __init__(self, like: Tensor) -> None:
        self._like, self._kept = like, dict[str, Tensor]()

    def get(self, name: str, *shape: int) -> Tensor:
        """Memory of this shape with anything in it."""
        size = math.prod(shape)
        if name not in self._kept:
            self._kept[name] = self._like.new_empty(size)
        return self._kept[name][:size].view(shape)


def _forward(plan: Plan, x: Tensor, tensors: tuple[Tensor, ...], out: Tensor) -> list[Tensor]:
    """Write a chunk's result; return the activations of every layer but that, and the gates'."""
    num_rows, num_experts, num_first = x.shape[0], plan.num_experts, 2 * len(plan.blocks)
    later = tensors[num_first:]
    writes_out = plan.gates is None and not later
    first = out.flatten(1) if writes_out else x.new_empty(num_rows, plan.columns)
    for i, block in enumerate(plan.blocks):
        weight_KDN, bias_KN = tensors[2 * i], tensors[2 * i + 1]
        _affine(_inputs(x, block), weight_KDN, bias_KN, _columns(first, block, weight_KDN))
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
        weight_BGE = weights(plan.gates, first[:, num_experts * plan.width :])
        torch.bmm(weight_BGE, hidden_EBO.transpose(0, 1), out=out)
        kept.append(weight_BGE)
    return kept


def _backward(
    plan: Plan,
    x: Tensor,
    tensors: list[Tensor],
    activations: list[Tensor],
    grad: Tensor,
    grads: list[Tensor | None],
    grad_x: Tensor | None,
    scratch: _Scratch,
    *,
    adds: bool,
) -> None:
    """Write or add a chunk's part of the gradients of weights and biases; write its inputs'."""
    num_rows, num_experts, num_first = x.shape[0], plan.num_experts, 2 * len(plan.blocks)
    num_hidden = num_experts * plan.width
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
        grad_BGE = torch.bmm(grad, hidden[-1].permute(1, 2, 0))
        through_gates(plan.gates, weight_BGE, grad_BGE, grad_first[:, num_hidden:])
        grad = torch.bmm(weight_BGE.transpose(1, 2), grad)
    if plan.is_linear_last:
        grad_EBO = grad.transpose(0, 1).contiguous()
    else:
        grad_EBO = grad_of(num_later)
        _through_relu(grad.transpose(0, 1), hidden[-1], grad_EBO)
    for layer in range(num_later, 0, -1):
        at = num_first + 2 * (layer - 1)
        _add_weight_grads(hidden[layer - 1], grad_EBO, grads[at : at + 2], adds=adds)
        below_EBO = grad_of(layer - 1)
        # A product over one column is slow as a matrix product.
        multiply = torch.mul if grad_EBO.shape[2] == 1 else torch.bmm
        multiply(grad_EBO, tensors[at].transpose(1, 2), out=below_EBO)
        _through_relu(below_EBO, hidden[layer - 1], below_EBO)
        grad_EBO = below_EBO
    written = set[tuple[int, int] | None]()
    for i, block in enumerate(plan.blocks):
        weight_KDN = tensors[2 * i]
        grad_KBN = _columns(grad_first, block, weight_KDN)
        _add_weight_grads(_inputs(x, block), grad_KBN, grads[2 * i : 2 * i + 2], adds=adds)
        if grad_x is not None:
            out_KBD = _inputs(grad_x, block)
            _product(grad_KBN, weight_KDN.transpose(1, 2), out_KBD, adds=block.groups in written)
            written.add(block.groups)


def _reads_all(plan: Plan, x: Tensor) -> bool:
    """Whether every input is read by some block."""
    read = {group for block in plan.blocks if block.groups for group in range(*block.groups)}
    return x.dim() == 2 or len(read) == x.shape[1]


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
    x_KBD: Tensor, grad_KBN: Tensor, grads: list[Tensor | None], *, adds: bool
) -> None:
    grad_weight_KDN, grad_bias_KN = grads
    if grad_bias_KN is not None:
        if adds:
            grad_bias_KN += grad_KBN.sum(dim=1)
        else:
            torch.sum(grad_KBN, dim=1, out=grad_bias_KN)
    if grad_weight_KDN is not None and grad_KBN.shape[2] == 1:
        row_K1D = grad_weight_KDN.transpose(1, 2)
        _product(grad_KBN.transpose(1, 2), x_KBD, row_K1D, adds=adds)
    elif grad_weight_KDN is not None:
        _product(x_KBD.transpose(1, 2), grad_KBN, grad_weight_KDN, adds=adds)


def _inputs(x: Tensor, block: Block) -> Tensor:
    """A block's inputs ``(K, B, D)``."""
    if block.groups is None:
        return x.unsqueeze(0)
    return x[:, block.groups[0] : block.groups[1]].transpose(0, 1)


def _columns(first: Tensor, block: Block, weight_KDN: Tensor) -> Tensor:
    """A block's part of the first layer's columns, ``(K, B, N)``."""
    return _split(first[:, block.columns[0] : block.columns[1]], weight_KDN.shape[0])


def _split(columns: Tensor, parts: int) -> Tensor:
    """Equal parts of the columns, ``(parts, B, N)``."""
    rows, width = columns.shape
    return columns.view(rows, parts, width // parts).transpose(0, 1)


def _twice(
    plan: Plan, inputs: tuple[Tensor, ...], is_needed: tuple[bool, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that have gradients themselves, of the plain form."""
    needed = [tensor for tensor, is_one in zip(inputs, is_needed, strict=True) if is_one]
    found = iter(torch.autograd.grad(plain(plan, *inputs), needed, grad, create_graph=True))
    return None, *(next(found) if is_one else None for is_one in is_needed)


def _chunks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Starts and ends of chunks of about equal size."""
    most = max(_LEAST_ROWS, _CHUNK_FLOATS * torch.get_num_threads() // columns)
    size = -(-rows // max(1, round(rows / most)))
    return [(start, min(start + size, rows)) for start in range(0, max(1, rows), max(1, size))]
