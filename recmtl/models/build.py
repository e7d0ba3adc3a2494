"""Spec and fitted encoders -> network and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import nn

from recmtl.embeddings import Layout, layout
from recmtl.errors import SpecError
from recmtl.models.inputs import TowerInputs, commonest_dim
from recmtl.models.multi_task import MultiTaskNet
from recmtl.spec import Spec
from recmtl.tasks import Calibrator, TaskDef, TaskSet, Thinning
from recmtl.towers import (
    InputDims,
    StackConfig,
    TaskSlot,
    TowerConfig,
    build_tower,
    requires_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "FittedEncoders",
    "build_net",
    "build_tasks",
    "input_dims",
    "reads_items",
    "task_slots_of",
]


class FittedEncoders(Protocol):
    """What is needed of `recmtl.data.Encoders`."""

    @property
    def tables(self) -> Mapping[str, int]:
        """Table -> number of rows."""

    @property
    def single(self) -> tuple[str, ...]:
        """Single-valued sparse features, the rows of `Batch.ids_FB`."""

    @property
    def bags(self) -> tuple[str, ...]:
        """List-valued sparse features."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Columns of `Batch.labels_BK`."""

    @property
    def base_rates(self) -> Mapping[str, float | tuple[float, ...]]:
        """Binary task -> positive rate where it is observed; multiclass task -> each class's."""

    @property
    def label_scales(self) -> Mapping[str, tuple[float, float]]:
        """Regression -> mean and standard deviation of its label."""


def build_net(
    spec: Spec,
    tower_config: TowerConfig | StackConfig,
    encoders: FittedEncoders,
    lookup: nn.Module,
    *,
    seed: int = 0,
) -> MultiTaskNet:
    """The network of a spec.

    Args:
        spec: features and tasks; of a `RunConfig` also how sequences enter.
        tower_config: the tower, with what stands below and beside it.
        encoders: fitted on the training rows: table sizes, and base rates, where heads start.
        lookup: `ShardedLookup` or `PlainLookup` of the same layout.
        seed: decides the initial weights of the dense part; torch's own generator is left alone.

    Raises:
        SpecError: the spec lacks what the tower requires.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inputs = _inputs(
            spec, tower_config, layout(spec, encoders.tables, encoders.single, encoders.bags)
        )
        slots = task_slots_of(spec)
        tower = build_tower(tower_config, in_dim=inputs.dims, tasks=slots)
    heads = {task.name for task in spec.tasks if not task.product_of and task.kind != "regression"}
    tower.set_base_rates(
        {name: rate for name, rate in encoders.base_rates.items() if name in heads}
    )
    return MultiTaskNet(lookup, tower, inputs)


def reads_items(spec: Spec, tower_config: TowerConfig | StackConfig) -> bool:
    """Whether the network reads the items of sequences, and not their means alone."""
    return _attends(spec) or bool(requires_of(tower_config) & {"sequences", "target"})


def input_dims(
    spec: Spec, tower_config: TowerConfig | StackConfig, tables: Layout
) -> int | InputDims:
    """What the tower is built with: the width of its input vector, or the sizes of a `TowerInput`.

    Raises:
        SpecError: the spec lacks what the tower requires.
    """
    return _inputs(spec, tower_config, tables).dims


def task_slots_of(spec: Spec) -> tuple[TaskSlot, ...]:
    """One slot for each head: each task that is no product of others, in the order of the spec."""
    return tuple(
        TaskSlot(task.name, outputs=task.classes or 1, group=task.group)
        for task in spec.tasks
        if not task.product_of
    )


def build_tasks(
    spec: Spec,
    objective: Literal["tasks", "entire_space"],
    normalize: Literal["rows", "observed"],
    encoders: FittedEncoders,
    calibrators: Mapping[str, Calibrator] | None = None,
) -> TaskSet:
    """The tasks of a spec, with the label scales of its regressions, and calibrated if asked.

    Raises:
        SpecError: the tasks contradict each other.
    """
    defs = []
    for task in spec.tasks:
        mean, std = encoders.label_scales.get(task.name, (0.0, 1.0))
        defs.append(
            TaskDef(
                name=task.name,
                label=task.label,
                kind=task.kind,
                classes=task.classes,
                given=task.given,
                product_of=task.product_of or (),
                weight=task.weight,
                mean=mean,
                std=std,
            )
        )
    sampled, sample = spec.data.sampled, spec.data.sample
    return TaskSet(
        defs,
        labels=encoders.labels,
        objective=objective,
        normalize=normalize,
        thinnings=() if sampled is None else (Thinning.of(sampled.keep),),
        train_thinnings=() if sample is None else (Thinning.of(sample.keep),),
        calibrators=calibrators,
    )


def _inputs(spec: Spec, tower_config: TowerConfig | StackConfig, tables: Layout) -> TowerInputs:
    parts: dict[str, Any] = {"tower": tower_config}
    if isinstance(tower_config, StackConfig):
        parts = {name: getattr(tower_config, name) for name in ("tower", "interaction", "wide")}
    asking = [name for name, part in parts.items() if "sequences" in requires_of(part)]
    asking = asking or [name for name, part in parts.items() if requires_of(part)]
    who = [f"{name}: `{parts[name].kind}`" for name in asking]
    inputs = TowerInputs(
        spec,
        tables,
        requires=requires_of(tower_config),
        field_dim=getattr(parts["tower"], "field_dim", None) or commonest_dim(spec),
        who=", ".join(who),
        attends=_attends(spec),
    )
    problems = [
        f"{name}: `{part.kind}` multiplies pairs of fields, and there is one, `{inputs.fields[0]}`."
        f" Add a feature, or write `{name}: none`."
        for name, part in parts.items()
        if part.kind in ("fm", "fwfm") and len(inputs.fields) == 1
    ]
    heads = getattr(parts["tower"], "num_attention_heads", 1)
    if getattr(parts["tower"], "encoder", None) == "self+target" and inputs.field_dim % heads:
        problems.append(
            f"tower.num_attention_heads: must divide the field width {inputs.field_dim}, got "
            f"{heads}. Write another number, or another `tower.field_dim`."
        )
    if problems:
        raise SpecError.all_of(problems)
    return inputs


def _attends(spec: Spec) -> bool:
    return getattr(getattr(spec, "sequence", None), "kind", "mean") == "din"
