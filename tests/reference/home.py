"""HoME, row by row: experts of groups and shared ones, then those of tasks above them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.mlp import State, Vector, affine, gate, head, mix, softmax, standard

Task = tuple[str, str]
"""Name and group."""


def home_logits(state: State, x_BD: Tensor, tasks: Sequence[Task], config: Any) -> Tensor:
    """Logits of every row.

    Args:
        state: the tower's state dict.
        x_BD: the input.
        tasks: names and groups, in order.
        config: the tower's config; `norm` is not `batch`.
    """
    groups = sorted({group for _, group in tasks})
    rows = []
    for x in x_BD.tolist():
        block = first_level(state, x, groups, config)
        logits: Vector = []
        for task, group in tasks:
            logits += head(state, task, second_level(state, block, task, group, groups, config))
        rows.append(logits)
    return torch.tensor(rows, dtype=torch.float64)


def first_level(
    state: State, x: Vector, groups: Sequence[str], config: Any
) -> dict[str | None, Vector]:
    """What each group's block extracts, and the shared one's (None)."""
    count = config.num_group_experts
    own = {
        g: experts(state, config, "first_level.", "experts", "features", g, count, x)
        for g in groups
    }
    count = config.num_shared_experts
    shared = experts(state, config, "first_level.", "experts", "features", None, count, x)
    every = [expert for group in groups for expert in own[group]] + shared
    found: dict[str | None, Vector] = {}
    for group in groups:
        weights = gate(state, "first_level.gates", group, x)
        found[group] = mix(weights, own[group] + shared if config.hierarchy else every)
        if config.self_gates:
            weights = self_gate(state, f"first_level.self_gates.task_weight.{group}", x)
            found[group] = add(found[group], mix(weights, own[group]))
    logits: Vector = []
    for group in groups:
        key = f"first_level.gates.shared.task_weight.{group}"
        logits += affine(x, state[key].tolist(), None) if key in state else []
    logits += affine(x, state["first_level.gates.shared.rest_weight"].tolist(), None)
    found[None] = mix(softmax(logits), every)
    if config.self_gates:
        weights = self_gate(state, "first_level.self_gates.shared_weight", x)
        found[None] = add(found[None], mix(weights, shared))
    return found


def second_level(
    state: State,
    block: dict[str | None, Vector],
    task: str,
    group: str,
    groups: Sequence[str],
    config: Any,
) -> Vector:
    """What the head of a task reads."""
    z, count = block[group], config.num_task_experts
    own = experts(state, config, "", "task_experts", "task_features", task, count, z)
    others: list[Vector] = []
    for read in [*([group] if config.hierarchy else groups), None]:
        count = config.num_group_experts if read else config.num_shared_experts
        names = ("group_experts", "group_features", read)
        others += experts(state, config, "", *names, count, block[read])
    weights = softmax(affine(z + block[None], state[f"gates.task_weight.{task}"].tolist(), None))
    mixed = mix(weights, own + others)
    if config.self_gates:
        weights = self_gate(state, f"self_gates.task_weight.{task}", z)
        mixed = add(mixed, mix(weights, own))
    return mixed


def experts(
    state: State,
    config: Any,
    prefix: str,
    name: str,
    features: str,
    owner: str | None,
    count: int,
    x: Vector,
) -> list[Vector]:
    """Outputs of an owner's experts; None: of the shared ones."""
    x = gated(state, prefix + features, owner, x)
    return [one_expert(state, config, prefix + name, owner, i, x) for i in range(count)]


def one_expert(
    state: State, config: Any, prefix: str, owner: str | None, index: int, x: Vector
) -> Vector:
    """Linear, normalisation over units, activation, layer after layer."""

    def of(part: str, layer: int, what: str) -> Any:
        name = f"task_{what}.{owner}" if owner else f"shared_{what}"
        return state[f"{prefix}.{part}.{layer}.{name}"][index].tolist()

    for layer in range(len(config.expert_widths)):
        x = affine(x, of("layers", layer, "weight"), of("layers", layer, "bias"))
        if config.norm == "layer":
            scales = zip(of("norms", layer, "weight"), of("norms", layer, "bias"), strict=True)
            pairs = zip(standard(x), scales, strict=True)
            x = [value * gamma + beta for value, (gamma, beta) in pairs]
        is_relu = config.activation == "relu"
        x = [max(value, 0.0) if is_relu else value * sigmoid(value) for value in x]
    return x


def gated(state: State, prefix: str, owner: str | None, x: Vector) -> Vector:
    """The input, each feature times its owner's factor."""
    suffix = ("task_{}." + owner) if owner else "shared_{}"
    if f"{prefix}.{suffix.format('down')}" not in state:
        return x
    downs = state[f"{prefix}.{suffix.format('down')}"].tolist()
    ups = state[f"{prefix}.{suffix.format('up')}"].tolist()
    key = f"{prefix}.{suffix.format('mix')}"
    shares = softmax(affine(x, state[key].tolist(), None)) if key in state else [1.0]
    factor = [0.0] * len(x)
    for share, down, up in zip(shares, downs, ups, strict=True):
        for i, value in enumerate(affine(affine(x, down, None), up, None)):
            factor[i] += share * 2.0 * sigmoid(value)
    return [value * times for value, times in zip(x, factor, strict=True)]


def self_gate(state: State, key: str, x: Vector) -> Vector:
    """A sigmoid over one expert, a softmax over several."""
    logits = affine(x, state[key].tolist(), None)
    return [sigmoid(logits[0])] if len(logits) == 1 else softmax(logits)


def add(first: Vector, second: Vector) -> Vector:
    """The sum of two vectors."""
    return [one + other for one, other in zip(first, second, strict=True)]


def sigmoid(value: float) -> float:
    """Of a number that is not very large."""
    return 1.0 / (1.0 + math.exp(-value))
