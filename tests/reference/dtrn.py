"""DTRN below its head, row by row: interests of each task in each behaviour, then their weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.reference.mlp import State, Vector, affine, dot, mix, softmax, standard

Matrix = list[Vector]


def representations(
    state: State,
    fields: Sequence[Vector],
    sequences: Sequence[Sequence[Vector]],
    target: Vector,
    tasks: Sequence[str],
    config: Any,
) -> list[Vector]:
    """What the head reads of one row, for each task.

    Args:
        state: the tower's state dict.
        fields: the field embeddings.
        sequences: the items that are there, of each behaviour.
        target: what they are compared with.
        tasks: names in order.
        config: the tower's config.
    """
    found = []
    for task in tasks:
        vectors = list(fields)
        for j, items in enumerate(sequences):
            vectors.append(interest(state, items, target, task, j, config))
        if config.refinement:
            shares = refine(state, vectors, task, config)
            vectors = [
                [share * value for value in vector]
                for share, vector in zip(shares, vectors, strict=True)
            ]
        found.append([value for vector in vectors for value in vector])
    return found


def interest(
    state: State, items: Sequence[Vector], target: Vector, task: str, j: int, config: Any
) -> Vector:
    """Of one task in one behaviour."""
    if not items:
        return [0.0] * len(target)

    def weight(name: str) -> Matrix:
        if config.hyper_mode == "full":
            return state[f"interests.task_{name}.{task}"][j].tolist()
        return state[f"interests.shared_{name}"][j].tolist()

    if config.encoder == "self+target":
        items = attend(items, *(weight(name) for name in ("query", "key", "value", "out")), config)
    encoded = [affine(item, weight("map"), None) for item in items]
    if config.hyper_mode == "film":
        made = hyper(state, task, j)
        scales, shifts = [1.0 + m for m in made[: len(target)]], made[len(target) :]
        encoded = [
            [gamma * v + beta for gamma, v, beta in zip(scales, standard(one), shifts, strict=True)]
            for one in encoded
        ]
    if config.hyper_mode == "lowrank":
        core = hyper(state, task, j)
        rank = config.rank
        rows = [core[r * rank : (r + 1) * rank] for r in range(rank)]
        right = [list(column) for column in zip(*state["interests.right"].tolist(), strict=True)]
        for one, item in zip(encoded, items, strict=True):
            low = affine(affine(item, state["interests.left"].tolist(), None), rows, None)
            for e, value in enumerate(affine(low, right, None)):
                one[e] += value
    return pool(encoded, target)


def pool(items: Sequence[Vector], query: Vector) -> Vector:
    """The items, weighted by how well they go with the query."""
    return mix(softmax([dot(query, item) / math.sqrt(len(query)) for item in items]), items)


def attend(
    items: Sequence[Vector], query: Matrix, key: Matrix, value: Matrix, out: Matrix, config: Any
) -> list[Vector]:
    """Each item, and what it sees of all of them through several heads."""
    width = len(items[0]) // config.num_attention_heads
    queries, keys, values = ([affine(one, w, None) for one in items] for w in (query, key, value))
    found = []
    for i, item in enumerate(items):
        seen: Vector = []
        for p in range(config.num_attention_heads):
            part = slice(p * width, (p + 1) * width)
            scores = [dot(queries[i][part], k[part]) / math.sqrt(width) for k in keys]
            seen += mix(softmax(scores), [v[part] for v in values])
        found.append([a + b for a, b in zip(item, affine(seen, out, None), strict=True)])
    return found


def hyper(state: State, task: str, j: int) -> Vector:
    """What the hypernetwork makes for a task and a behaviour."""
    condition = state[f"interests.task_condition.{task}"].tolist()
    condition += state["interests.behaviour_condition"][j].tolist()
    hidden, last = (
        (state[f"interests.{name}.weight"].T.tolist(), state[f"interests.{name}.bias"].tolist())
        for name in ("hidden", "last")
    )
    return affine([max(value, 0.0) for value in affine(condition, *hidden)], *last)


def refine(state: State, vectors: Sequence[Vector], task: str, config: Any) -> Vector:
    """The weight of each vector."""
    means = [sum(vector) / len(vector) for vector in vectors]
    units = affine(means, state[f"refinement.task_squeeze.{task}"].tolist(), None)
    units = [max(value, 0.0) for value in units]
    logits = affine(units, state[f"refinement.task_excite.{task}"].tolist(), None)
    if config.gate == "relu":
        return [max(value, 0.0) for value in logits]
    top = 2.0 if config.gate == "2sigmoid" else 1.0
    return [top / (1.0 + math.exp(-value)) for value in logits]
