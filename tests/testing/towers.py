"""Two honest towers of a user's own: nothing of recmtl's but the contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recmtl.towers import ExpertRef, InputDims, TaskSlot, TowerInput, task_slots


def start_at(heads: nn.ModuleDict, rates: Mapping[str, float | Sequence[float]]) -> None:
    """The biases that say a rate, or the rates of several classes."""
    for name, rate in rates.items():
        several = isinstance(rate, Sequence)
        logits = [math.log(r) for r in rate] if several else [math.log(rate / (1 - rate))]
        with torch.no_grad():
            heads[name].bias.copy_(torch.tensor(logits))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Sizes of a LoopTower."""

    kind: Literal["loop"] = "loop"
    num_experts: int = 3
    expert_widths: tuple[int, ...] = (8,)
    dropout: float = 0.0


class LoopTower(nn.Module):
    """An MMoE of nn.Linear modules, one expert after the other."""

    requires: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, config: LoopConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        super().__init__()
        self.config, self.in_dim, self.tasks = config, in_dim, task_slots(tasks)
        width, hidden = in_dim, config.expert_widths[-1]
        self.experts = nn.ModuleList(nn.Linear(width, hidden) for _ in range(config.num_experts))
        names = [slot.name for slot in self.tasks]
        self.gates = nn.ModuleDict({name: nn.Linear(width, config.num_experts) for name in names})
        self.heads = nn.ModuleDict({s.name: nn.Linear(hidden, s.outputs) for s in self.tasks})
        self.dropout = nn.Dropout(config.dropout)

    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {name: gate(x_BD).softmax(dim=-1) for name, gate in self.gates.items()}

    def expert_outputs(self, x_BD: Tensor) -> Tensor:
        return torch.stack([self.dropout(expert(x_BD).relu()) for expert in self.experts], dim=1)

    def forward(self, x_BD: Tensor) -> Tensor:
        expert_BEH, logits = self.expert_outputs(x_BD), []
        for name, weight_BE in self.weights(x_BD).items():
            mixed_BH = (weight_BE.unsqueeze(-1) * expert_BEH).sum(dim=1)
            logits.append(self.heads[name](mixed_BH))
        return torch.cat(logits, dim=1)

    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        if unknown := rates.keys() - {slot.name for slot in self.tasks}:
            raise ValueError(f"unknown tasks {sorted(unknown)}.")
        start_at(self.heads, rates)

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {f"gates/{name}": weight_BE for name, weight_BE in self.weights(x_BD).items()}


class LoopTowerWithRefs(LoopTower):
    """The same, and it says where its experts are."""

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        names = tuple(slot.name for slot in self.tasks)
        return tuple(
            ExpertRef(
                f"shared {e + 1}",
                1,
                names,
                ((f"experts.{e}.weight", None), (f"experts.{e}.bias", None)),
            )
            for e in range(self.config.num_experts)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldConfig:
    """Sizes of a FieldTower."""

    kind: Literal["field"] = "field"


class FieldTower(nn.Module):
    """A logistic regression for each task over fields, a sequence's mean and the target."""

    requires: ClassVar[frozenset[str]] = frozenset({"fields", "sequences"})

    def __init__(
        self, config: FieldConfig, *, in_dim: InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        super().__init__()
        self.config, self.in_dim, self.tasks = config, in_dim, task_slots(tasks)
        width = in_dim.x + (len(in_dim.fields) + 2) * in_dim.field_dim
        self.heads = nn.ModuleDict({s.name: nn.Linear(width, s.outputs) for s in self.tasks})

    def forward(self, x: TowerInput) -> Tensor:
        seq_BLE, lengths_B = x.sequences["click"]
        mean_BE = seq_BLE.sum(dim=1) / lengths_B.unsqueeze(1)
        joined = torch.cat([x.x_BD, x.fields_BFE.flatten(1), mean_BE, x.target_BE], dim=1)
        return torch.cat([head(joined) for head in self.heads.values()], dim=1)

    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        for name in rates:
            if name not in self.heads:
                raise ValueError(f"unknown task `{name}`.")
        start_at(self.heads, rates)

    def explain(self, x: TowerInput) -> dict[str, Tensor]:
        return {}
