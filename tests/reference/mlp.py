"""Plain loops over floats: what the references of all towers are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

State = Mapping[str, Tensor]
Vector = list[float]


def affine(x: Vector, weight: Sequence[Vector], bias: Vector | None) -> Vector:
    """Each output o: sum over inputs i of x_i w_io, plus b_o."""
    out = []
    for o in range(len(weight[0])):
        total = 0.0 if bias is None else bias[o]
        for i in range(len(x)):
            total += x[i] * weight[i][o]
        out.append(total)
    return out


def relu(x: Vector) -> Vector:
    """The positive part."""
    return [max(value, 0.0) for value in x]


def softmax(x: Vector) -> Vector:
    """Exponentials over their sum."""
    powers = [math.exp(value - max(x)) for value in x]
    return [power / sum(powers) for power in powers]


def dot(first: Vector, second: Vector) -> float:
    """Of two vectors."""
    return sum(one * other for one, other in zip(first, second, strict=True))


def standard(x: Vector) -> Vector:
    """Of mean 0 and variance 1."""
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + 1e-5)
    return [(value - mean) / deviation for value in x]


def mix(weights: Vector, vectors: Sequence[Vector]) -> Vector:
    """The weighted sum of some vectors."""
    assert len(weights) == len(vectors)
    out = [0.0] * len(vectors[0])
    for weight, vector in zip(weights, vectors, strict=True):
        for h, value in enumerate(vector):
            out[h] += weight * value
    return out


def expert(state: State, prefix: str, owner: str | None, index: int, x: Vector) -> Vector:
    """The output of one expert; `owner` None: a shared one."""
    suffix = ("task_{}." + owner) if owner else "shared_{}"
    layer = 0
    while f"{prefix}.layers.{layer}.{suffix.format('weight')}" in state:
        weight = state[f"{prefix}.layers.{layer}.{suffix.format('weight')}"][index].tolist()
        bias = state[f"{prefix}.layers.{layer}.{suffix.format('bias')}"][index].tolist()
        x = relu(affine(x, weight, bias))
        layer += 1
    assert layer > 0, f"no expert under {prefix} for {owner}"
    return x


def gate(state: State, prefix: str, task: str, x: Vector) -> Vector:
    """The softmax weights of a task's gate, over its own experts, then the shared ones."""
    if f"{prefix}.hidden.layers.0.task_weight.{task}" in state:
        x = expert(state, f"{prefix}.hidden", task, 0, x)
    bias = state.get(f"{prefix}.task.task_bias.{task}")
    weight = state[f"{prefix}.task.task_weight.{task}"].tolist()
    return softmax(affine(x, weight, None if bias is None else bias.tolist()))


def head(state: State, task: str, x: Vector) -> Vector:
    """The logits of one task."""
    if f"heads.hidden.layers.0.task_weight.{task}" in state:
        x = expert(state, "heads.hidden", task, 0, x)
    weight, bias = (state[f"heads.last.task_{kind}.{task}"].tolist() for kind in ("weight", "bias"))
    return affine(x, weight, bias)
