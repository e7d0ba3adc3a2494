"""Normalisation and activation of experts, each by scales of its own.

Shape letters: B rows, M experts of each task, S shared experts, E all experts, O a layer's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from recmtl.towers import norm_swish
from recmtl.towers.parameters import by_task

__all__ = ["Activation", "ExpertNorm", "Norm"]

Norm = Literal["layer", "batch", "none"]
"""Over a layer's units of each row; over the rows of the batch; not at all."""
Activation = Literal["swish", "relu"]

MOMENTUM = 0.1
"""Share of a batch in the running mean and variance."""


class ExpertNorm(nn.Module):
    """Products of one layer, normalised, scaled, activated: ``(E, B, O)`` -> ``(E, B, O)``.

    With `batch` the mean and the variance are those of the batch in training, and running ones in
    evaluation; all rows count, padded ones too.
    """

    def __init__(
        self,
        kind: Norm,
        activation: Activation,
        width: int,
        tasks: Sequence[str],
        num_task: int,
        num_shared: int,
    ) -> None:
        """Build it.

        Args:
            kind: `layer` or `batch`.
            activation: what follows.
            width: width O of the layer.
            tasks: names of the tasks that own experts.
            num_task: experts M of each.
            num_shared: experts S that belong to no task.
        """
        super().__init__()
        self.is_over_rows, self.activation = kind == "batch", activation
        self.task_weight = by_task({t: nn.Parameter(torch.ones(num_task, width)) for t in tasks})
        self.task_bias = by_task({t: nn.Parameter(torch.zeros(num_task, width)) for t in tasks})
        self.has_shared = num_shared > 0
        if self.has_shared:
            self.shared_weight = nn.Parameter(torch.ones(num_shared, width))
            self.shared_bias = nn.Parameter(torch.zeros(num_shared, width))
        if self.is_over_rows:
            counts = dict.fromkeys(tasks, num_task)
            self.mean = _Running(counts, num_shared, width, 0.0)
            self.var = _Running(counts, num_shared, width, 1.0)

    def forward(self, out_EBO: Tensor) -> Tensor:
        """Normalised and activated outputs."""
        weights, biases = list(self.task_weight.values()), list(self.task_bias.values())
        if self.has_shared:
            weights, biases = [*weights, self.shared_weight], [*biases, self.shared_bias]
        weight_EO, bias_EO = torch.cat(weights), torch.cat(biases)
        is_swish = self.activation == "swish"
        if is_swish and not self.is_over_rows:
            can_run = norm_swish.can_run(out_EBO, weight_EO)
            return (norm_swish.run if can_run else norm_swish.plain)(out_EBO, weight_EO, bias_EO)
        normal_EBO = (
            self._over_rows(out_EBO)
            if self.is_over_rows
            else nn.functional.layer_norm(out_EBO, out_EBO.shape[-1:], eps=norm_swish.EPS)
        )
        scaled_EBO = torch.addcmul(bias_EO.unsqueeze(1), normal_EBO, weight_EO.unsqueeze(1))
        return nn.functional.silu(scaled_EBO) if is_swish else scaled_EBO.relu()

    def _over_rows(self, out_EBO: Tensor) -> Tensor:
        if not self.training:
            mean_EO, var_EO = self.mean.all(), self.var.all()
        else:
            var_EO, mean_EO = torch.var_mean(out_EBO, dim=1, correction=0)
            self.mean.follow(mean_EO.detach())
            self.var.follow(var_EO.detach())
        normal_EBO: Tensor = (out_EBO - mean_EO.unsqueeze(1)) * (
            var_EO + norm_swish.EPS
        ).rsqrt().unsqueeze(1)
        return normal_EBO


class _Running(nn.Module):
    """A running statistic of all experts, kept by owner."""

    def __init__(
        self, counts: Mapping[str, int], num_shared: int, width: int, start: float
    ) -> None:
        super().__init__()
        self.task, owners = nn.Module(), tuple(counts)
        for task, count in counts.items():
            self.task.register_buffer(task, torch.full((count, width), start))
        self.has_shared, self.owners = num_shared > 0, owners
        if self.has_shared:
            self.register_buffer("shared", torch.full((num_shared, width), start))

    def _parts(self) -> list[Tensor]:
        parts = [self.task.get_buffer(owner) for owner in self.owners]
        return [*parts, *([self.get_buffer("shared")] if self.has_shared else [])]

    def all(self) -> Tensor:
        """``(E, O)``."""
        return torch.cat(self._parts())

    def follow(self, batch_EO: Tensor) -> None:
        """Move towards a batch's."""
        parts = self._parts()
        torch._foreach_lerp_(parts, batch_EO.split([len(part) for part in parts]), MOMENTUM)
