"""The TorchRec way of writing the workload's models: what `step.py` is compared with.

An EmbeddingBagCollection under DistributedModelParallel with every table fused (row-wise Adagrad),
`nn.ModuleList` of experts, `nn.Linear` gates and heads, fused Adam for the rest. Batches are built
for it beforehand, as its own pipelines would.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from workload import DENSE, DIM, IDS, SEQUENCES

from recmtl import _torchrec
from recmtl.batch import Batch

__all__ = ["TorchRecBatch", "prepare", "stepper"]


class TorchRecBatch(NamedTuple):
    """A batch as this model takes it."""

    ids: Any
    """KeyedJaggedTensor."""
    dense_BD: Tensor
    lengths_BS: Tensor
    """Items of each sequence."""
    click_B: Tensor
    conversion_B: Tensor


def prepare(batch: Batch) -> TorchRecBatch:
    """The same rows for this model; not timed."""
    values = [batch.ids_FB.flatten().long()]
    lengths = [torch.ones_like(values[0])]
    for column in batch.sequences.values():
        values.append(column.values_N.long())
        lengths.append(column.lengths_B.long())
    ids = _torchrec.KeyedJaggedTensor(
        keys=[*IDS, *batch.sequences],
        values=torch.cat(values),
        lengths=torch.cat(lengths),
        stride=len(batch),
    )
    ids.sync()
    counts = [column.lengths_B for column in batch.sequences.values()]
    return TorchRecBatch(
        ids,
        batch.dense_DB.T.contiguous(),
        torch.stack(counts, dim=1).float() if counts else torch.empty(len(batch), 0),
        batch.labels_BK[:, 0].clone(),
        batch.labels_BK[:, 1].clone(),
    )


def stepper(
    tower: str, tables: dict[str, int], *, batch_size: int, sequences: bool, lr: float
) -> Callable[[TorchRecBatch], None]:
    """A function that trains on one batch. The default process group must exist.

    Args:
        tower: one of the workload's.
        tables: rows of each table.
        batch_size: rows of a batch.
        sequences: whether there are two lists beside.
        lr: learning rate of the tables.
    """
    torch.manual_seed(0)
    width = len(DENSE) + DIM * (len(IDS) + (len(SEQUENCES) if sequences else 0))
    model = _Model(tower, tables, width, sequences=sequences)
    _apply_optimizer_in_backward(
        _torchrec.RowWiseAdagrad, model.tables.parameters(), {"lr": lr, "eps": 1e-8}
    )
    constraints = {
        name: _torchrec.ParameterConstraints(
            sharding_types=["table_wise"], compute_kernels=["fused"]
        )
        for name in tables
    }
    device = torch.device("cpu")
    with _torchrec.quiet():
        _torchrec.forget_groups()
        topology = _torchrec.Topology(world_size=1, compute_device="cpu", ddr_cap=2**36)
        planner = _torchrec.EmbeddingShardingPlanner(
            topology=topology, constraints=constraints, batch_size=batch_size
        )
        sharders = [_torchrec.EmbeddingBagCollectionSharder()]
        plan = planner.plan(model, sharders)
        parallel = _torchrec.DistributedModelParallel(
            model, device=device, plan=plan, sharders=sharders
        )
    dense = [
        p
        for name, p in parallel.named_parameters()
        if not name.rpartition("module.")[2].startswith("tables.")
    ]
    optimizer = torch.optim.Adam(dense, lr=1e-3, fused=True)

    def step(batch: TorchRecBatch) -> None:
        optimizer.zero_grad()
        logits = parallel(batch)
        click_B, conversion_B = batch.click_B, batch.conversion_B
        loss = nnf.binary_cross_entropy_with_logits(logits[0], click_B)
        each_B = nnf.binary_cross_entropy_with_logits(logits[1], conversion_B, reduction="none")
        (loss + (each_B * click_B).mean()).backward()
        optimizer.step()

    return step


class _Model(nn.Module):
    def __init__(self, tower: str, tables: dict[str, int], width: int, *, sequences: bool) -> None:
        super().__init__()
        readers = {name: [name] for name in tables}
        if sequences:
            for i, name in enumerate(SEQUENCES):
                readers[f"id_{14 + i}"].append(name)
        self.names = [*IDS, *(SEQUENCES if sequences else ())]
        self.tables = _torchrec.EmbeddingBagCollection(
            tables=[
                _torchrec.EmbeddingBagConfig(
                    name=name,
                    num_embeddings=rows,
                    embedding_dim=DIM,
                    feature_names=readers[name],
                    init_fn=_start,
                )
                for name, rows in tables.items()
            ],
            device=torch.device("meta"),
        )
        self.num_sequences = len(SEQUENCES) if sequences else 0
        self.tower = {"mmoe": _MMoE, "ple": _PLE, "esmm": _ESMM, "shared_bottom": _SharedBottom}[
            tower
        ](width)

    def forward(self, batch: TorchRecBatch) -> Sequence[Tensor]:
        found = self.tables(batch.ids).to_dict()
        pooled = [found[name] for name in self.names]
        for i in range(self.num_sequences):
            place = len(IDS) + i
            pooled[place] = pooled[place] / batch.lengths_BS[:, i : i + 1].clamp(min=1)
        outputs: Sequence[Tensor] = self.tower(torch.cat([batch.dense_BD, *pooled], dim=1))
        return outputs


def _start(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.01)


def _mlp(*widths: int) -> nn.Sequential:
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))


def _head(*widths: int) -> nn.Sequential:
    return nn.Sequential(*_mlp(*widths), nn.Linear(widths[-1], 1))


class _MMoE(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_mlp(width, 128, 64) for _ in range(8))
        self.gates = nn.ModuleList(nn.Linear(width, 8, bias=False) for _ in range(2))
        self.heads = nn.ModuleList(_head(64, 32) for _ in range(2))

    def forward(self, x_BD: Tensor) -> list[Tensor]:
        experts_BEH = torch.stack([expert(x_BD) for expert in self.experts], dim=1)
        return [
            head((gate(x_BD).softmax(1).unsqueeze(1) @ experts_BEH).squeeze(1)).squeeze(1)
            for gate, head in zip(self.gates, self.heads, strict=True)
        ]


class _Level(nn.Module):
    def __init__(self, width: int, *, is_last: bool) -> None:
        super().__init__()
        self.shared = nn.ModuleList(_mlp(width, 128, 64) for _ in range(4))
        self.own = nn.ModuleList(
            nn.ModuleList(_mlp(width, 128, 64) for _ in range(2)) for _ in range(2)
        )
        self.gates = nn.ModuleList(nn.Linear(width, 6, bias=False) for _ in range(2))
        self.shared_gate = None if is_last else nn.Linear(width, 8, bias=False)

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        *tasks, common = streams
        shared = [expert(common) for expert in self.shared]
        own = [[e(x) for e in bank] for bank, x in zip(self.own, tasks, strict=True)]
        mixed = [
            _mix(gate(x), bank + shared)
            for gate, x, bank in zip(self.gates, tasks, own, strict=True)
        ]
        if self.shared_gate is not None:
            mixed.append(_mix(self.shared_gate(common), [*own[0], *own[1], *shared]))
        return mixed


def _mix(gate_BE: Tensor, experts: list[Tensor]) -> Tensor:
    return (gate_BE.softmax(1).unsqueeze(1) @ torch.stack(experts, dim=1)).squeeze(1)


class _PLE(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList([_Level(width, is_last=False), _Level(64, is_last=True)])
        self.heads = nn.ModuleList(_head(64, 32) for _ in range(2))

    def forward(self, x_BD: Tensor) -> list[Tensor]:
        streams = [x_BD] * 3
        for level in self.levels:
            streams = level(streams)
        return [head(x).squeeze(1) for head, x in zip(self.heads, streams, strict=True)]


class _ESMM(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(width, 128, 64) for _ in range(2))

    def forward(self, x_BD: Tensor) -> list[Tensor]:
        return [head(x_BD).squeeze(1) for head in self.heads]


class _SharedBottom(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bottom = _mlp(width, 128, 64)
        self.heads = nn.ModuleList(_head(64, 32) for _ in range(2))

    def forward(self, x_BD: Tensor) -> list[Tensor]:
        bottom_BH = self.bottom(x_BD)
        return [head(bottom_BH).squeeze(1) for head in self.heads]
