"""The one place where experts are computed: equal networks, held side by side and run together.

Shape letters: B rows, D input width, T tasks, M experts of each task, S shared experts,
E = T * M + S all experts, G inputs, I and O a layer's input and output width, H expert width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recmtl.towers.chunk import Block, Plan
from recmtl.towers.chunked import can_run, is_watched, run
from recmtl.towers.expert_norm import Activation, ExpertNorm, Norm
from recmtl.towers.gating import Gates
from recmtl.towers.parameters import by_task, uniform_

__all__ = ["Columns", "ExpertBank", "ExpertRef"]


class ExpertRef(NamedTuple):
    """Where one expert's weights are, and which tasks it serves.

    Attributes:
        name: for people, as in ``click 1`` or ``shared 2``.
        level: 1 for experts that read the tower's input.
        tasks: the tasks whose logits this expert can move.
        parameters: (state key, index) of its weights; ``parameter[index]`` is this expert's part
            of a packed parameter, and None stands for all of it.
    """

    name: str
    level: int
    tasks: tuple[str, ...]
    parameters: tuple[tuple[str, int | None], ...]


class Columns(NamedTuple):
    """Columns of one linear layer for the input of the shared experts, or those of the tasks.

    Attributes:
        is_shared: whether they read the shared input; of no account where all read the same.
        weight_KDN: weight for each of K inputs.
        bias_KN: bias for each.
    """

    is_shared: bool
    weight_KDN: Tensor
    bias_KN: Tensor


class ExpertBank(nn.Module):
    """E equal MLPs, in the order [task 1's ... task T's; shared].

    ReLU follows every layer or, where asked for, a normalisation and Swish.

    The first layer of experts that read the same input is one wide matrix product; every other
    layer is one batched product. Experts of a task are stored under its name, ``(M, I, O)`` a
    layer, so that keys survive adding and reordering tasks; shared ones are packed, ``(S, I, O)``.

    Shape: ``(B, D)`` or ``(B, G, D)`` -> ``(B, E, H)``; the strides are not promised.

    Example:
        >>> bank = ExpertBank(4, (8, 6), tasks=("click", "buy"), num_task_experts=2)
        >>> bank(torch.zeros(3, 4)).shape
        torch.Size([3, 4, 6])
    """

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        *,
        tasks: Sequence[str] = (),
        num_task_experts: int = 0,
        num_shared_experts: int = 0,
        dropout: float = 0.0,
        own_inputs: bool = False,
        norm: Norm = "none",
        activation: Activation = "relu",
    ) -> None:
        """Build it.

        Args:
            in_dim: width D of the input.
            widths: layer widths, at least one; the last one is H.
            tasks: names of the tasks that own experts.
            num_task_experts: experts M of each task.
            num_shared_experts: experts S that belong to no task.
            dropout: share of units dropped after each layer.
            norm: what normalises each layer's outputs before its activation.
            activation: what follows each layer.
            own_inputs: True: the input is ``(B, G, D)``, one for each task and, where there are
                shared experts, a last one for those; False: all read ``(B, D)``.
        """
        super().__init__()
        self.tasks = tuple(tasks)
        self.num_tasks = len(self.tasks)
        self.num_task_experts = num_task_experts
        self.num_shared_experts = num_shared_experts
        self.num_experts = self.num_tasks * num_task_experts + num_shared_experts
        self.own_inputs = own_inputs
        self.widths = tuple(widths)
        owners = self.tasks if num_task_experts else ()
        sizes = [in_dim, *widths]
        self.layers = nn.ModuleList(
            _ExpertLayer(i, o, owners, num_task_experts, num_shared_experts)
            for i, o in pairwise(sizes)
        )
        self.norms = nn.ModuleList(
            ExpertNorm(norm, activation, o, owners, num_task_experts, num_shared_experts)
            for o in widths
            if norm != "none"
        )
        self.activation = activation
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all experts, ``(B, E, H)``."""
        if self.can_chunk(x):
            return self.chunked(x)
        out_EBO = self._spread(x) if self.own_inputs else self._first_layer(x)
        for i in range(0 if self.own_inputs else 1, len(self.layers)):
            weight_EIO, bias_EO = self.layers[i]()
            out_EBO = torch.baddbmm(bias_EO.unsqueeze(1), out_EBO, weight_EIO)
            out_EBO = self._end_of_layer(i, out_EBO)
        return out_EBO.transpose(0, 1)

    def _first_layer(self, x_BD: Tensor) -> Tensor:
        """All experts on the same rows: one product with their weights side by side."""
        weight_EIO, bias_EO = self.layers[0]()
        wide = torch.addmm(bias_EO.flatten(), x_BD, weight_EIO.transpose(0, 1).flatten(1))
        out_BEO = wide.view(-1, self.num_experts, bias_EO.shape[1])
        return self._end_of_layer(0, out_BEO.transpose(0, 1))

    def _end_of_layer(self, i: int, out_EBO: Tensor) -> Tensor:
        """Normalisation, activation and dropout of a layer's products, which are used up."""
        if self.norms:
            out_EBO = self.norms[i](out_EBO)
        else:
            is_relu = self.activation == "relu"
            out_EBO = out_EBO.relu_() if is_relu else nn.functional.silu(out_EBO)
        kept: Tensor = self.dropout(out_EBO)
        return kept

    def _spread(self, x_BGD: Tensor) -> Tensor:
        """Each expert's input, ``(E, B, D)``."""
        x_GBD, num_tasks = x_BGD.transpose(0, 1), self.num_tasks
        parts: list[Tensor] = []
        if self.num_task_experts == 1:
            parts.append(x_GBD[:num_tasks])
        elif self.num_task_experts:
            # Not `repeat_interleave`: torch.export of torch 2.11 cannot follow its strides.
            each_1BD = (x_GBD[t : t + 1] for t in range(num_tasks))
            parts += [x_1BD.expand(self.num_task_experts, -1, -1) for x_1BD in each_1BD]
        if self.num_shared_experts:
            parts.append(x_GBD[num_tasks:].expand(self.num_shared_experts, -1, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def can_chunk(self, x: Tensor) -> bool:
        """Whether `chunked` computes the same here and now, and faster."""
        dropout = self.dropout
        is_off = type(dropout) is nn.Identity or (
            type(dropout) is nn.Dropout and not (dropout.training and dropout.p > 0)
        )
        return (
            is_off
            and not self.norms
            and self.activation == "relu"
            and can_run(x, next(self.parameters()), self.num_experts * self.widths[0])
            and all(type(layer) is _ExpertLayer for layer in self.layers)
            and not is_watched(self)
        )

    def chunked(
        self,
        x: Tensor,
        beside: Sequence[Columns] = (),
        gates: Gates | None = None,
        last: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Outputs of all experts, or what gates mix of them, by `recmtl.towers.chunked`.

        Args:
            x: as for `forward`.
            beside: columns of the gates' logits: of all gates together or, with `own_inputs`, of
                the tasks' gates and then of the shared one.
            gates: what they weigh; None for the experts' outputs.
            last: weight and bias of a further layer, without ReLU.
        """
        first, *later = self.layers
        assert isinstance(first, _ExpertLayer)
        parts = first.by_input() if self.own_inputs else [first.joined(beside)]
        parts += beside if self.own_inputs else ()
        blocks, columns = list[Block](), 0
        for is_shared, weight_KDN, _ in parts:
            groups = None
            if self.own_inputs:
                groups = (self.num_tasks, self.num_tasks + 1) if is_shared else (0, self.num_tasks)
            end = columns + len(weight_KDN) * weight_KDN.shape[2]
            blocks.append(Block(groups, (columns, end)))
            columns = end
        is_linear_last = last is not None
        plan = Plan(self.num_experts, self.widths[0], columns, tuple(blocks), gates, is_linear_last)
        tensors = [tensor for _, *pair in parts for tensor in pair]
        pairs = [*(layer() for layer in later), *([last] if last is not None else [])]
        return run(plan, x, tensors, [tensor for pair in pairs for tensor in pair])

    def refs(self, prefix: str, *, level: int = 1, mixed: bool = False) -> Iterator[ExpertRef]:
        """Where each expert's weights are, in the order of the outputs.

        Args:
            prefix: the bank's name in the tower, as in ``experts``.
            level: level of the bank in the tower.
            mixed: whether a task's own experts reach the other tasks at a later level.
        """
        for task in self.tasks if self.num_task_experts else ():
            for i in range(self.num_task_experts):
                keys = [f"{prefix}.{at}" for at in self._keys(f"task_weight.{task}")]
                keys += [f"{prefix}.{at}" for at in self._keys(f"task_bias.{task}")]
                reached = self.tasks if mixed else (task,)
                yield ExpertRef(f"{task} {i + 1}", level, reached, tuple((k, i) for k in keys))
        for i in range(self.num_shared_experts):
            keys = [f"{prefix}.{at}" for at in self._keys("shared_weight")]
            keys += [f"{prefix}.{at}" for at in self._keys("shared_bias")]
            yield ExpertRef(f"shared {i + 1}", level, self.tasks, tuple((k, i) for k in keys))

    def _keys(self, name: str) -> list[str]:
        parts = {"layers": self.layers, "norms": self.norms}
        return [f"{part}.{i}.{name}" for part, kept in parts.items() for i in range(len(kept))]


class _ExpertLayer(nn.Module):
    """One layer of all experts: weights ``(E, I, O)`` and biases ``(E, O)``, kept by owner."""

    def __init__(
        self, in_dim: int, out_dim: int, tasks: Sequence[str], num_task: int, num_shared: int
    ) -> None:
        super().__init__()
        self.task_weight = by_task({t: _hidden_weight(num_task, in_dim, out_dim) for t in tasks})
        self.task_bias = by_task({t: nn.Parameter(torch.zeros(num_task, out_dim)) for t in tasks})
        self.has_shared = num_shared > 0
        if self.has_shared:
            self.shared_weight = _hidden_weight(num_shared, in_dim, out_dim)
            self.shared_bias = nn.Parameter(torch.zeros(num_shared, out_dim))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Weights ``(E, I, O)`` and biases ``(E, O)`` of all experts, in the bank's order."""
        weights, biases = self._weights(), self._biases()
        if len(weights) == 1:
            return weights[0], biases[0]
        return torch.cat(weights), torch.cat(biases)

    def joined(self, beside: Sequence[Columns]) -> Columns:
        """All experts side by side, for one input, and after them further columns."""
        weights = [w_IO for w_MIO in self._weights() for w_IO in w_MIO.unbind()]
        biases = [b_MO.flatten() for b_MO in self._biases()]
        weights += [columns.weight_KDN[0] for columns in beside]
        biases += [columns.bias_KN[0] for columns in beside]
        if len(weights) == 1:
            return Columns(True, weights[0].unsqueeze(0), biases[0].unsqueeze(0))
        return Columns(True, torch.cat(weights, dim=1).unsqueeze(0), torch.cat(biases).unsqueeze(0))

    def by_input(self) -> list[Columns]:
        """The experts of each task side by side for its input, then the shared ones."""
        found, weights, biases = list[Columns](), self._weights(), self._biases()
        if self.has_shared:
            weight_IO = weights.pop().transpose(0, 1).flatten(1)
            found.append(Columns(True, weight_IO.unsqueeze(0), biases.pop().flatten().unsqueeze(0)))
        if weights:
            weight_IMO = torch.cat([w_MIO.transpose(0, 1) for w_MIO in weights])
            weight_TIN = weight_IMO.flatten(1).unflatten(0, (len(weights), -1))
            found.insert(0, Columns(False, weight_TIN, torch.stack(biases).flatten(1)))
        return found

    def _weights(self) -> list[Tensor]:
        return [*self.task_weight.values(), *([self.shared_weight] if self.has_shared else [])]

    def _biases(self) -> list[Tensor]:
        return [*self.task_bias.values(), *([self.shared_bias] if self.has_shared else [])]


def _hidden_weight(count: int, in_dim: int, out_dim: int) -> nn.Parameter:
    """He-uniform for ReLU: each expert's fan-in is its own input width, each draw its own."""
    return uniform_(torch.empty(count, in_dim, out_dim), fan_in=in_dim, gain=math.sqrt(6.0))
