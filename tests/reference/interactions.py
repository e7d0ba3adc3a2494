"""Wide parts, interactions and target attention, row by row."""

from __future__ import annotations

from collections.abc import Sequence

from tests.reference.mlp import State, Vector, affine, dot, relu, standard

Matrix = list[Vector]


def linear(state: State, x: Vector, tasks: Sequence[str]) -> Vector:
    """Logits of a linear model."""
    return [z for task in tasks for z in affine(x, state[f"task_linear.{task}"].tolist(), None)]


def fm(state: State, x: Vector, fields: Matrix, tasks: Sequence[str]) -> Vector:
    """Linear terms, and all pairs of fields with one weight a logit."""
    pairs = sum(dot(fields[i], fields[j]) for j in range(len(fields)) for i in range(j))
    products = [
        weight * pairs for task in tasks for weight in state[f"task_pairs.{task}"][0].tolist()
    ]
    return [a + b for a, b in zip(linear(state, x, tasks), products, strict=True)]


def fwfm(state: State, x: Vector, fields: Matrix, tasks: Sequence[str]) -> Vector:
    """Linear terms, and each pair of fields with its own weight."""
    found = linear(state, x, tasks)
    o = 0
    for task in tasks:
        weights = state[f"task_pairs.{task}"].tolist()
        for n in range(len(weights[0])):
            p = 0
            for i in range(len(fields)):
                for j in range(i + 1, len(fields)):
                    found[o] += weights[p][n] * dot(fields[i], fields[j])
                    p += 1
            o += 1
    return found


def cross(state: State, x: Vector, num_layers: int) -> Vector:
    """x0 times (W x + b), plus x, layer after layer."""
    out = x
    for i in range(num_layers):
        mapped = affine(out, state[f"weights.{i}"].tolist(), None)
        if f"up_weights.{i}" in state:
            mapped = affine(mapped, state[f"up_weights.{i}"].tolist(), None)
        bias = state[f"biases.{i}"].tolist()
        out = [a * (m + b) + o for a, m, b, o in zip(x, mapped, bias, out, strict=True)]
    return out


def bi_interaction(x: Vector, fields: Matrix) -> Vector:
    """The input, then the products of all pairs of fields."""
    products = [0.0] * len(fields[0])
    for i in range(len(fields)):
        for j in range(i + 1, len(fields)):
            for e in range(len(products)):
                products[e] += fields[i][e] * fields[j][e]
    return x + products


def masknet(state: State, fields: Matrix, num_blocks: int) -> Vector:
    """Blocks side by side."""
    v = [value for field in fields for value in field]
    scales, shifts = state["scale_FE"].tolist(), state["shift_FE"].tolist()
    normal = [
        value * scale + shift
        for field, scale_E, shift_E in zip(fields, scales, shifts, strict=True)
        for value, scale, shift in zip(standard(field), scale_E, shift_E, strict=True)
    ]
    hidden = relu(affine(v, state["down.weight"].T.tolist(), state["down.bias"].tolist()))
    width = len(hidden) // num_blocks
    found: Vector = []
    for k in range(num_blocks):
        part = hidden[k * width : (k + 1) * width]
        mask = affine(part, state["up_KHD"][k].tolist(), state["up_bias_KD"][k].tolist())
        masked = [m * n for m, n in zip(mask, normal, strict=True)]
        out = standard(affine(masked, state["out_KDH"][k].tolist(), None))
        scale, shift = state["out_scale_KH"][k].tolist(), state["out_shift_KH"][k].tolist()
        found += relu([o * a + b for o, a, b in zip(out, scale, shift, strict=True)])
    return found


def attention(state: State, items: Matrix, target: Vector, j: int) -> Vector:
    """The items of a behaviour, each times how it goes with the target."""
    found = [0.0] * len(target)
    for item in items:
        put_together = [
            *target,
            *item,
            *(q - k for q, k in zip(target, item, strict=True)),
            *(q * k for q, k in zip(target, item, strict=True)),
        ]
        weight, bias = state["weight_MDH"][j].tolist(), state["bias_MH"][j].tolist()
        hidden = relu(affine(put_together, weight, bias))
        score = dot(hidden, state["out_MH"][j].tolist()) + float(state["out_bias_M"][j])
        found = [f + score * value for f, value in zip(found, item, strict=True)]
    return found
