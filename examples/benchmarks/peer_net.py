"""The networks as peers write them, with the weights of a trained run: what scoring is timed by.

One `nn.Embedding` a field, one `nn.Sequential` an expert, Python loops over experts and tasks, in
the order of operations of torch-rechub. There is no batch norm, so that outputs are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.batch import Batch
from recmtl.models import MultiTaskNet

__all__ = ["PeerNet"]

Loaded = Mapping[str, Tensor]


class PeerNet(nn.Module):
    """Batch -> probability of each head, [B, T]."""

    def __init__(self, net: MultiTaskNet, tables: Mapping[str, Tensor]) -> None:
        """Take the weights of `net` and its tables over."""
        super().__init__()
        layout = net.inputs.layout
        self.fields = [(i, feature.name) for i, feature in enumerate(layout.single)]
        self.embed_dict = nn.ModuleDict(
            {
                feature.name: nn.Embedding.from_pretrained(tables[feature.table])
                for feature in layout.single
            }
        )
        tower = net.tower
        state, tasks = tower.state_dict(), tower.task_names
        kind = tower.config.kind
        if kind == "esmm":
            self.body: nn.Module = _Towers([_head(state, "heads", task) for task in tasks])
        elif kind == "shared_bottom":
            bottom = _mlp(_layers(state, "experts", "shared", 0))
            self.body = _Shared(bottom, [_head(state, "heads", task) for task in tasks])
        elif kind == "mmoe":
            experts = [
                _mlp(_layers(state, "experts", "shared", e))
                for e in range(tower.config.num_experts)
            ]
            gates = [_gate([state[f"gates.task.task_weight.{task}"]]) for task in tasks]
            self.body = _MMoE(experts, gates, [_head(state, "heads", task) for task in tasks])
        elif kind == "ple":
            levels = [
                _CGC(
                    state, f"levels.{j}", tasks, tower.config, last=j + 1 == tower.config.num_levels
                )
                for j in range(tower.config.num_levels)
            ]
            self.body = _PLE(levels, [_head(state, "heads", task) for task in tasks])
        else:
            raise ValueError(f"no peer writes `{kind}`.")

    def forward(self, ids: Mapping[str, Tensor], dense: Sequence[Tensor]) -> Tensor:
        """Probabilities from one tensor a column, as peers' loaders give them."""
        embedded = [self.embed_dict[name](ids[name].long()).unsqueeze(1) for _, name in self.fields]
        sparse = torch.cat(embedded, dim=1).flatten(start_dim=1)
        numbers = torch.cat([column.float().unsqueeze(1) for column in dense], dim=1)
        found: Tensor = self.body(torch.cat((numbers, sparse), dim=1))
        return found

    def columns(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """A batch as this net takes it."""
        return {name: batch.ids_FB[i] for i, name in self.fields}, list(batch.dense_DB)


class _Towers(nn.Module):
    def __init__(self, towers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sigmoid(tower(x)) for tower in self.towers], dim=1)


class _Shared(nn.Module):
    def __init__(self, bottom: nn.Module, towers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.bottom, self.towers = bottom, nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bottom(x)
        return torch.cat([torch.sigmoid(tower(x)) for tower in self.towers], dim=1)


class _MMoE(nn.Module):
    def __init__(
        self, experts: Sequence[nn.Module], gates: Sequence[nn.Module], towers: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.experts, self.gates = nn.ModuleList(experts), nn.ModuleList(gates)
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        experts = torch.cat([expert(x).unsqueeze(1) for expert in self.experts], dim=1)
        gates = [gate(x).unsqueeze(-1) for gate in self.gates]
        ys = []
        for gate, tower in zip(gates, self.towers, strict=True):
            pooled = torch.sum(torch.mul(gate, experts), dim=1)
            ys.append(torch.sigmoid(tower(pooled)))
        return torch.cat(ys, dim=1)


class _CGC(nn.Module):
    def __init__(
        self, state: Loaded, prefix: str, tasks: Sequence[str], config: object, *, last: bool
    ) -> None:
        super().__init__()
        own: int = config.num_task_experts  # type: ignore[attr-defined]
        shared: int = config.num_shared_experts  # type: ignore[attr-defined]
        experts, gates = f"{prefix}.experts", f"{prefix}.gates"
        self.own = nn.ModuleList(
            nn.ModuleList(_mlp(_layers(state, experts, f"task.{task}", i)) for i in range(own))
            for task in tasks
        )
        self.shared = nn.ModuleList(
            _mlp(_layers(state, experts, "shared", i)) for i in range(shared)
        )
        self.gates = nn.ModuleList(
            _gate([state[f"{gates}.task.task_weight.{task}"]]) for task in tasks
        )
        of_shared = [state[f"{gates}.shared.task_weight.{t}"] for t in tasks] if not last else []
        self.shared_gate = (
            None if last else _gate([*of_shared, state[f"{gates}.shared.rest_weight"]])
        )

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        shared = [expert(xs[-1]).unsqueeze(1) for expert in self.shared]
        outs, all_experts = [], []
        for t, experts in enumerate(self.own):
            assert isinstance(experts, nn.ModuleList)
            own = [expert(xs[t]).unsqueeze(1) for expert in experts]
            all_experts += own
            gate = self.gates[t](xs[t]).unsqueeze(-1)
            outs.append(torch.sum(torch.mul(gate, torch.cat(own + shared, dim=1)), dim=1))
        if self.shared_gate is not None:
            gate = self.shared_gate(xs[-1]).unsqueeze(-1)
            outs.append(torch.sum(torch.mul(gate, torch.cat(all_experts + shared, dim=1)), dim=1))
        return outs


class _PLE(nn.Module):
    def __init__(self, levels: Sequence[_CGC], towers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels, self.towers = nn.ModuleList(levels), nn.ModuleList(towers)

    def forward(self, x: Tensor) -> Tensor:
        xs = [x] * (len(self.towers) + 1)
        for level in self.levels:
            xs = level(xs)
        pairs = zip(xs, self.towers, strict=False)
        return torch.cat([torch.sigmoid(tower(x)) for x, tower in pairs], dim=1)


def _layers(state: Loaded, bank: str, owner: str, index: int) -> list[tuple[Tensor, Tensor]]:
    """Weight [I, O] and bias [O] of each layer of one expert; `owner` is shared or task.<name>."""
    weight, bias = ("shared_weight", "shared_bias")
    if owner != "shared":
        task = owner.removeprefix("task.")
        weight, bias = f"task_weight.{task}", f"task_bias.{task}"
    found = []
    while f"{bank}.layers.{len(found)}.{weight}" in state:
        at = f"{bank}.layers.{len(found)}"
        found.append((state[f"{at}.{weight}"][index], state[f"{at}.{bias}"][index]))
    return found


def _head(state: Loaded, bank: str, task: str) -> nn.Sequential:
    hidden = _mlp(_layers(state, f"{bank}.hidden", f"task.{task}", 0))
    last = (state[f"{bank}.last.task_weight.{task}"], state[f"{bank}.last.task_bias.{task}"])
    return nn.Sequential(*hidden, _linear(*last))


def _gate(weights: Sequence[Tensor]) -> nn.Sequential:
    return nn.Sequential(_linear(torch.cat(list(weights), dim=1), None), nn.Softmax(dim=1))


def _mlp(layers: Sequence[tuple[Tensor, Tensor]]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in layers:
        modules += [_linear(weight, bias), nn.ReLU()]
    return nn.Sequential(*modules)


def _linear(weight_IO: Tensor, bias_O: Tensor | None) -> nn.Linear:
    made = nn.Linear(*weight_IO.shape, bias=bias_O is not None)
    with torch.no_grad():
        made.weight.copy_(weight_IO.T)
        if bias_O is not None:
            made.bias.copy_(bias_O)
    return made
