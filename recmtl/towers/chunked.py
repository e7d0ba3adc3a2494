"""Experts, gates and mixture forward and backward by hand, a chunk of rows at a time, on the CPU.

The products are those of the plain form. What is saved is what lies between them: copies for
transposed layouts, passes over activations that have left the cache, memory that is given out and
taken back. Everywhere else (CUDA, tracing, compiling) the plain form is as good. Under autocast to
bfloat16 the products are in bfloat16, and what is added up over chunks is in the weights' type.

Shape letters: B rows of a chunk, D input width, K inputs of a block, T tasks, M experts of each
task, S shared experts, E = T * M + S all experts, G gates, N columns, O a layer's width, H the last
layer's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from recmtl.towers.chunk import Plan, Scratch, backward, forward, inputs
from recmtl.towers.gating import num_gates, weights

__all__ = ["can_run", "is_free", "is_transformed", "is_watched", "plain", "run"]

_CHUNK_FLOATS = 1 << 20
"""Activations of the widest layer that one thread works on at a time: about 4 MiB of float32."""
_PLAIN = (Tensor, nn.Parameter)
_LEAST_ROWS = 128
"""Matrix products of fewer rows are slow."""


def can_run(x: Tensor, weight: Tensor, columns: int) -> bool:
    """Whether it pays and can be done.

    It pays where the first layer's columns would fill the cache.

    Args:
        x: the input.
        weight: any of the weights.
        columns: columns of the first layer that experts have.
    """
    return (
        is_free(x, weight)
        and _is_supported(x.dtype, weight.dtype)
        and x.shape[0] * columns >= _CHUNK_FLOATS
    )


def is_free(*tensors: Tensor) -> bool:
    """Whether operations on these may take another form: a CPU's tensors, and nobody looks on.

    Tracing, compiling, function transforms, counting FLOPs and forward-mode gradients watch the
    single operations.
    """
    return (
        all(type(tensor) in _PLAIN for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and forward_ad._current_level < 0
    )


def is_transformed(grad: Tensor) -> bool:
    """Whether a gradient stands for many: `vmap` runs over a backward."""
    is_legacy = torch._C._functorch.is_legacy_batchedtensor(grad)
    return is_legacy or torch._C._are_functorch_transforms_active()


def is_watched(*modules: nn.Module) -> bool:
    """Whether somebody waits for calls of these modules or their parts: a hook, another forward.

    The hand-written form reads their weights and calls none of them.
    """
    return torch.nn.modules.module._has_any_global_hook() or any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or "forward" in part.__dict__
        for module in modules
        for part in module.modules()
    )


def run(plan: Plan, x: Tensor, first: list[Tensor], later: list[Tensor]) -> Tensor:
    """Experts' outputs ``(B, E, H)``, or mixtures ``(B, G, H)``.

    Args:
        plan: what is computed.
        x: ``(B, D)`` or ``(B, G, D)``.
        first: weight ``(K, D, N)`` and bias ``(K, N)`` of each block.
        later: weight ``(E, I, O)`` and bias ``(E, O)`` of each later layer.
    """
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
    with torch.autocast("cpu", enabled=False):
        tensors = (*first, *later)
        if not (torch.is_grad_enabled() and any(one.requires_grad for one in (x, *tensors))):
            return _evaluate(plan, x, _cast(tensors, dtype), _chunks(plan, x), keeps=False)[0]
        result: Tensor = _Chunked.apply(plan, dtype, x, *tensors)  # type: ignore[no-untyped-call]
        return result


def plain(plan: Plan, x: Tensor, *tensors: Tensor) -> Tensor:
    """What `run` computes, as autograd writes it; the tensors are those of first and later."""
    num_first, parts = 2 * len(plan.blocks), list[Tensor]()
    for block, weight_KDN, bias_KN in zip(
        plan.blocks, tensors[:num_first:2], tensors[1:num_first:2], strict=True
    ):
        out_KBN = torch.baddbmm(bias_KN.unsqueeze(1), inputs(x, block.groups), weight_KDN)
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
    def forward(ctx: Any, plan: Plan, dtype: torch.dtype, x: Tensor, *tensors: Tensor) -> Tensor:
        cast, chunks = _cast(tensors, dtype), _chunks(plan, x)
        out, kept = _evaluate(plan, x, cast, chunks, keeps=True)
        ctx.plan, ctx.chunks, ctx.num_tensors = plan, chunks, len(tensors)
        ctx.is_cast = any(one is not other for one, other in zip(cast, tensors, strict=True))
        saved = (*tensors, *cast) if ctx.is_cast else tensors
        ctx.save_for_backward(x, out if plan.is_result_needed else None, *saved, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, chunks, count = ctx.plan, ctx.chunks, ctx.num_tensors
        x, out, *saved = ctx.saved_tensors
        tensors, start_of_cast = saved[:count], count if ctx.is_cast else 0
        cast, kept = saved[start_of_cast:][:count], saved[start_of_cast + count :]
        is_needed = ctx.needs_input_grad[2:]
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled() or is_transformed(grad):
                return _twice(plan, (x, *tensors), is_needed, grad)
            grads = [
                tensor.new_empty(tensor.shape) if needed else None
                for tensor, needed in zip(tensors, is_needed[1:], strict=True)
            ]
            grad_x = None
            if is_needed[0]:
                make = x.new_empty if _reads_all(plan, x) else x.new_zeros
                grad_x = make(x.shape)
            scratch = Scratch(cast[0].dtype)
            per_chunk = len(kept) // len(chunks)
            for i, (start, stop) in enumerate(chunks):
                activations = kept[i * per_chunk : (i + 1) * per_chunk]
                if out is not None:
                    activations.append(out[start:stop])
                backward(
                    plan,
                    x[start:stop],
                    cast,
                    activations,
                    grad[start:stop],
                    grads,
                    None if grad_x is None else grad_x[start:stop],
                    scratch,
                    adds=start > 0,
                )
        return None, None, grad_x, *grads


def _is_supported(x: torch.dtype, weight: torch.dtype) -> bool:
    """Whether products of these types can be done here, under the autocast that is on."""
    if not torch.is_autocast_enabled("cpu"):
        return x == weight and x in (torch.float32, torch.float64)
    is_half = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return is_half and weight == torch.float32 and x in (torch.float32, torch.bfloat16)


def _cast(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(tensor.to(dtype) for tensor in tensors)


def _evaluate(
    plan: Plan,
    x: Tensor,
    tensors: tuple[Tensor, ...],
    chunks: list[tuple[int, int]],
    *,
    keeps: bool,
) -> tuple[Tensor, list[Tensor]]:
    """The result and, if they are to be kept, every chunk's activations one after another."""
    last_dim = tensors[-1].shape[1] if len(tensors) > 2 * len(plan.blocks) else plan.width
    num_out = plan.num_experts if plan.gates is None else num_gates(plan.gates)
    out, kept = tensors[0].new_empty(len(x), num_out, last_dim), list[Tensor]()
    for start, stop in chunks:
        activations = forward(plan, x[start:stop], tensors, out[start:stop])
        if keeps:
            kept += activations
    return out, kept


def _reads_all(plan: Plan, x: Tensor) -> bool:
    """Whether every input is read by some block."""
    read = {group for block in plan.blocks if block.groups for group in range(*block.groups)}
    return x.dim() == 2 or len(read) == x.shape[1]


def _twice(
    plan: Plan, given: tuple[Tensor, ...], is_needed: tuple[bool, ...], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients that have gradients themselves, or batches of them, of the plain form.

    It computes in the weights' type.
    """
    needed = [tensor for tensor, is_one in zip(given, is_needed, strict=True) if is_one]
    has_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        out = plain(plan, *_cast(given, given[-1].dtype))
    grad = grad.to(out.dtype)
    found = iter(torch.autograd.grad(out, needed, grad, create_graph=has_graph))
    return None, None, *(next(found) if is_one else None for is_one in is_needed)


def _chunks(plan: Plan, x: Tensor) -> list[tuple[int, int]]:
    """Starts and ends of chunks of about equal size."""
    rows, most = len(x), _CHUNK_FLOATS * torch.get_num_threads() // plan.columns
    most = max(_LEAST_ROWS, most)
    size = -(-rows // max(1, round(rows / most)))
    return [(start, min(start + size, rows)) for start in range(0, max(1, rows), max(1, size))]
