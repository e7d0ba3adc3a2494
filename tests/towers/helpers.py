"""What tests of towers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from recmtl.testing.subject import Subject
from recmtl.towers import TOWERS, InputDims, Tower, TowerInput, build_tower


def randomise(tower: nn.Module, *, seed: int = 0) -> nn.Module:
    """Float64 weights and biases that are all random, so that no term of an equation is zero."""
    tower.double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.copy_(torch.randn(weight.shape, generator=random, dtype=torch.float64) * 0.5)
    return tower


def rows(count: int, width: int, *, seed: int = 1) -> Tensor:
    """Random float64 rows."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=random, dtype=torch.float64)


def gradcheck_with_parameters(tower: nn.Module, x_BD: Tensor) -> bool:
    """Finite differences against the gradients of the input and of every parameter."""
    names = [name for name, _ in tower.named_parameters()]
    weights = [weight.detach().clone().requires_grad_() for weight in tower.parameters()]

    def logits(x_BD: Tensor, *weights: Tensor) -> Tensor:
        return functional_call(tower, dict(zip(names, weights, strict=True)), (x_BD,))

    return torch.autograd.gradcheck(logits, (x_BD.clone().requires_grad_(), *weights))


def move(weights: Iterable[Tensor], *, by: float = 1.0) -> None:
    """Add a constant in place."""
    with torch.no_grad():
        for weight in weights:
            weight += by


def built(config: type, tasks: Sequence[str]) -> Tower:
    """A tower with its defaults, on four inputs, or on as small fields and sequences."""
    dims = InputDims(x=4, fields=("user", "item"), field_dim=4, sequences={"clicks": 3})
    return build_tower(config(), in_dim=dims if TOWERS[config].requires else 4, tasks=tasks)


def inputs_of(tower: Tower, count: int) -> Tensor | TowerInput:
    """Random float32 rows of what the tower takes."""
    return Subject(tower).rows(count)
