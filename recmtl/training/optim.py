"""One torch optimizer over tables, updated in backward, and dense parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["DENSE_OPTIMIZERS", "TablesAndDense", "dense_optimizer"]

DENSE_OPTIMIZERS = ("adam", "adamw", "sgd", "adagrad")


class FusedOptimizer(Protocol):
    """What is needed of the optimizer inside the embedding kernels."""

    param_groups: Iterable[dict[str, Any]]

    def step(self, closure: Any = None) -> None:
        """Copy the groups' learning rates into the kernels; updates happen in backward."""


def dense_optimizer(
    kind: str, parameters: Mapping[str, nn.Parameter], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of the dense parameters, its state already allocated.

    A checkpoint is loaded in place, so the state must exist before the first step; it starts as
    torch would start it.

    Args:
        kind: one of `DENSE_OPTIMIZERS`.
        parameters: dense parameters by name.
        lr: learning rate.
        weight_decay: decay of every dense parameter; decoupled with `adamw`, else added to the
            gradient.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> named = dict(layer.named_parameters())
        >>> optimizer = dense_optimizer("adam", named, lr=0.1, weight_decay=0.0)
        >>> sorted(optimizer.state[layer.bias])
        ['exp_avg', 'exp_avg_sq', 'step']
    """
    values = list(parameters.values())
    if kind == "sgd":
        return torch.optim.SGD(values, lr=lr, weight_decay=weight_decay)
    if kind == "adagrad":
        return torch.optim.Adagrad(values, lr=lr, weight_decay=weight_decay)
    adam: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    optimizer = adam(values, lr=lr, weight_decay=weight_decay, fused=True)
    for parameter in values:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }
    return optimizer


class TablesAndDense(torch.optim.Optimizer):
    """Two groups, always: `sparse`, the tables, and `dense`, everything else.

    The groups inside the kernels depend on how tables are sharded; here they are one group, so that
    a learning rate schedule means the same on any number of devices. Three things differ from
    torchrec's `CombinedOptimizer`: the closure (forward and backward, under Lightning) runs once;
    `zero_grad` leaves the tables alone, which have no gradient; and `push_lr`, to be called before
    forward, is what moves a new learning rate into the kernels, because they read it there.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> named = dict(layer.named_parameters())
        >>> dense = dense_optimizer("sgd", named, lr=0.1, weight_decay=0.0)
        >>> optimizer = TablesAndDense(None, dense, named, lr=0.05)
        >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
        [('sparse', 0.05), ('dense', 0.1)]
    """

    def __init__(
        self,
        fused: FusedOptimizer | None,
        dense: torch.optim.Optimizer,
        names: Mapping[str, nn.Parameter],
        *,
        lr: float,
    ) -> None:
        """Join two optimizers.

        Args:
            fused: the optimizer inside the kernels, or None without tables.
            dense: the optimizer of the dense parameters, with one group.
            names: the name of each dense parameter.
            lr: learning rate of the tables.
        """
        super().__init__([{"params": [], "lr": lr, "name": "sparse"}], {})
        dense.param_groups[0]["name"] = "dense"
        self.param_groups.append(dense.param_groups[0])
        self.fused = fused
        self.dense = dense
        self.names = dict(names)
        self.pushed_lr: float | None = None

    def push_lr(self) -> None:
        """Move the learning rate of `sparse` into the kernels; to be called before forward."""
        lr = float(self.param_groups[0]["lr"])
        if self.fused is None or lr == self.pushed_lr:
            return
        for group in self.fused.param_groups:
            group["lr"] = lr
        self.fused.step()
        self.pushed_lr = lr

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure once (its backward updates the tables), then update the dense part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.dense.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the dense parameters."""
        if not set_to_none:
            self.dense.zero_grad(set_to_none=False)
            return
        for parameter in self.names.values():  # torch's own takes longer to get ready than to do it
            parameter.grad = None

    def dense_state(self) -> dict[str, Tensor]:
        """The live state of the dense optimizer as `<parameter>/<state>`; writing to it counts."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.names.items()
            for key, value in self.dense.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
