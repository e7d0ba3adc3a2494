"""Small untrained nets of every kind, on the world of the embedding tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from recmtl.embeddings import PlainLookup
from recmtl.exporting.inputs import inputs_of, tensors_of
from recmtl.exporting.net import ServingNet
from recmtl.exporting.rows import TablePrecision, pack
from recmtl.models import MultiTaskNet, build_net, build_tasks
from recmtl.spec import Spec
from recmtl.tasks import Calibrator, TaskSet
from recmtl.towers import (
    BiInteractionConfig,
    CGCConfig,
    CrossNetConfig,
    DTRNConfig,
    ESMMConfig,
    FMConfig,
    FwFMConfig,
    HoMEConfig,
    LinearConfig,
    MaskNetConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    StackConfig,
)
from tests.embeddings.world import DIMS, ENCODERS, ROWS, SPEC, random_rows, to_batch, world_layout

_SIZES: dict[str, Any] = {"expert_widths": (8, 4), "head_widths": (4,)}
_SMALL = SharedBottomConfig(**_SIZES)
TOWERS: dict[str, Any] = {
    "shared_bottom": _SMALL,
    "mmoe": MMoEConfig(num_experts=3, **_SIZES),
    "cgc": CGCConfig(**_SIZES),
    "ple": PLEConfig(**_SIZES),
    "esmm": ESMMConfig(head_widths=(8,)),
    "home": HoMEConfig(expert_widths=(8,), head_widths=(4,)),
    "dtrn": DTRNConfig(head=MMoEConfig(num_experts=3, **_SIZES)),
    "dcnv2": StackConfig(tower=_SMALL, interaction=CrossNetConfig()),
    "bi_interaction": StackConfig(tower=_SMALL, interaction=BiInteractionConfig()),
    "masknet": StackConfig(tower=_SMALL, interaction=MaskNetConfig()),
    "linear": StackConfig(tower=_SMALL, wide=LinearConfig()),
    "wide_fm": StackConfig(tower=_SMALL, wide=FMConfig()),
    "fwfm": StackConfig(tower=_SMALL, wide=FwFMConfig()),
    "din": _SMALL,
}
"""What is exported: each tower, each thing below or beside one, and attention to sequences."""
BENT = Calibrator(at=(-1.0, 0.5), values=(-2.0, 0.0), below=0.7, above=1.5)
"""What a probability is calibrated with, and so all products of it."""


class _Attending:
    """The world's spec where sequences enter by attention."""

    sequence = SimpleNamespace(kind="din")

    def __getattr__(self, name: str) -> Any:
        return getattr(SPEC, name)


class World(SimpleNamespace):
    """A net as it is trained and scored, and the same as it is exported."""

    net: MultiTaskNet
    tasks: TaskSet
    serving: ServingNet


def world(kind: str, precision: TablePrecision = "fp32", spec: Spec = SPEC) -> World:
    generator = torch.Generator().manual_seed(1)
    spec = _Attending() if kind == "din" else spec  # type: ignore[assignment]
    tables = {name: torch.randn(ROWS[name], DIMS[name], generator=generator) for name in ROWS}
    lookup = PlainLookup(world_layout(), tables)
    net = build_net(spec, TOWERS[kind], ENCODERS, lookup).eval()
    with torch.no_grad():
        for weight in net.parameters():  # wide parts start at zero
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    tasks = build_tasks(spec, "tasks", "rows", ENCODERS, {"ctr": BENT})
    packed = {name: pack(table, precision) for name, table in tables.items()}
    about = world_layout()
    serving = ServingNet(net, tasks, about, inputs_of(spec, about), packed, precision)
    return World(net=net, tasks=tasks, serving=serving, tables=tables)


def eager(world: World, rows: list[Any]) -> dict[str, torch.Tensor]:
    """What the net itself predicts of rows."""
    with torch.no_grad():
        probs_BO = world.tasks.probs(world.net(to_batch(rows)))
    return {name: probs_BO[:, where.start] for name, where in world.tasks.columns.items()}


def tensors(world: World, rows: list[Any]) -> dict[str, torch.Tensor]:
    """Rows as the exported net takes them."""
    return tensors_of(to_batch(rows), SPEC, world.serving.inputs)


def some_rows(count: int, seed: int = 3) -> list[Any]:
    rows = random_rows(64, seed=seed)
    return (rows * (count // 64 + 1))[:count]
