"""Layer normalisation, scale and Swish of all experts, forward and backward by hand, on the CPU.

A few experts at a time, whose activations stay in the cache; of a layer only its products are kept
for the backward. Elsewhere (CUDA, tracing, compiling) the plain form is as good.

Shape letters: B rows, E experts, O a layer's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recmtl.towers.chunked import is_free, is_transformed

__all__ = ["can_run", "plain", "run"]

EPS = 1e-5
_CHUNK_FLOATS = 1 << 18
"""Activations that are worked on at a time: 1 MiB of float32."""


def can_run(out_EBO: Tensor, weight_EO: Tensor) -> bool:
    """Whether it can be done here and now."""
    return (
        is_free(out_EBO, weight_EO)
        and not torch.is_autocast_enabled("cpu")
        and out_EBO.dtype == weight_EO.dtype
        and out_EBO.dtype in (torch.float32, torch.float64)
    )


def run(out_EBO: Tensor, weight_EO: Tensor, bias_EO: Tensor) -> Tensor:
    """Products of a layer, normalised over its units, scaled, with Swish.

    Example:
        >>> run(torch.tensor([[[-1.0, 1.0]]]), torch.ones(1, 2), torch.zeros(1, 2))
        tensor([[[-0.2689,  0.7311]]])
    """
    result: Tensor = _NormSwish.apply(out_EBO, weight_EO, bias_EO)  # type: ignore[no-untyped-call]
    return result


def plain(out_EBO: Tensor, weight_EO: Tensor, bias_EO: Tensor) -> Tensor:
    """What `run` computes, as autograd writes it."""
    normal_EBO = nn.functional.layer_norm(out_EBO, out_EBO.shape[-1:], eps=EPS)
    scaled_EBO = torch.addcmul(bias_EO.unsqueeze(1), normal_EBO, weight_EO.unsqueeze(1))
    return nn.functional.silu(scaled_EBO)


class _NormSwish(torch.autograd.Function):
    """The function of `run`."""

    @staticmethod
    def forward(ctx: Any, x_EBO: Tensor, weight_EO: Tensor, bias_EO: Tensor) -> Tensor:
        mean_EB1 = x_EBO.mean(dim=2, keepdim=True)
        rstd_EB1, out_EBO = torch.empty_like(mean_EB1), torch.empty_like(x_EBO)
        weight_E1O, bias_E1O = weight_EO.unsqueeze(1), bias_EO.unsqueeze(1)
        for some in _chunks(x_EBO):
            normal, out = x_EBO[some] - mean_EB1[some], out_EBO[some]
            variance = torch.mul(normal, normal, out=out).mean(dim=2, keepdim=True)
            normal *= torch.rsqrt(variance.add_(EPS), out=rstd_EB1[some])
            scaled = torch.addcmul(bias_E1O[some], normal, weight_E1O[some], out=normal)
            torch.ops.aten.silu.out(scaled, out=out)
        ctx.save_for_backward(x_EBO, mean_EB1, rstd_EB1, weight_EO, bias_EO)
        return out_EBO

    @staticmethod
    def backward(ctx: Any, grad_EBO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_EBO, mean_EB1, rstd_EB1, weight_EO, bias_EO = ctx.saved_tensors
        if torch.is_grad_enabled() or is_transformed(grad_EBO):
            return _twice((x_EBO, weight_EO, bias_EO), grad_EBO)
        grad_x_EBO = torch.empty_like(x_EBO)
        grad_weight_EO, grad_bias_EO = torch.empty_like(weight_EO), torch.empty_like(bias_EO)
        weight_E1O, bias_E1O = weight_EO.unsqueeze(1), bias_EO.unsqueeze(1)
        for some in _chunks(x_EBO):
            grad, weight = grad_x_EBO[some], weight_E1O[some]
            normal = x_EBO[some] - mean_EB1[some]
            normal *= rstd_EB1[some]
            scaled = torch.addcmul(bias_E1O[some], normal, weight)
            torch.ops.aten.silu_backward.grad_input(grad_EBO[some], scaled, grad_input=grad)
            torch.sum(grad, dim=1, out=grad_bias_EO[some])
            product = torch.mul(grad, normal, out=scaled)
            torch.sum(product, dim=1, out=grad_weight_EO[some])
            grad *= weight
            product *= weight
            grad -= grad.mean(dim=2, keepdim=True)
            grad.addcmul_(normal, product.mean(dim=2, keepdim=True), value=-1)
            grad *= rstd_EB1[some]
        return grad_x_EBO, grad_weight_EO, grad_bias_EO


def _chunks(x_EBO: Tensor) -> Iterator[slice]:
    """Experts that are worked on together."""
    count = max(1, _CHUNK_FLOATS // max(1, x_EBO[0].numel()))
    for start in range(0, len(x_EBO), count):
        yield slice(start, start + count)


def _twice(given: tuple[Tensor, Tensor, Tensor], grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients that have gradients themselves, or batches of them, of the plain form."""
    has_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        needed = [one if one.requires_grad else one.detach().requires_grad_() for one in given]
        x, weight, bias = torch.autograd.grad(plain(*needed), needed, grad, create_graph=has_graph)
    return x, weight, bias
