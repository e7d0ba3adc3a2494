"""Encoding by plain loops over rows, for comparison; imports nothing from recmtl."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

_MASK = 2**64 - 1


def splitmix64(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def vocabulary(lists_of_ids: Sequence[Sequence[Any]], min_count: int) -> dict[Any, int]:
    """Ids to rows: each list is a row of the log."""
    counts = Counter(v for ids in lists_of_ids for v in set(ids) if v is not None)
    kept = [v for v in counts if counts[v] >= min_count]

    def order(v: Any) -> tuple[int, Any]:
        return (-counts[v], v.encode() if isinstance(v, str) else v)

    return {v: row for row, v in enumerate(sorted(kept, key=order), start=1)}


def hashed(value: int | None, size: int) -> int:
    return 0 if value is None else splitmix64(value & _MASK) % size + 1


def bucket(value: float | None, borders: Sequence[float]) -> int:
    return 0 if value is None or math.isnan(value) else bisect_right(borders, value) + 1


def transformed(value: float | None, transform: str, fill: float) -> float:
    if value is None or not math.isfinite(value):
        value = fill
    if transform == "log1p":
        return math.log1p(value)
    if transform == "signed_log1p":
        return math.copysign(math.log1p(abs(value)), value)
    return value


def unit(vector: Sequence[float] | None, dim: int) -> list[float]:
    """The vector over its norm; zeros for none, and for zeros."""
    if vector is None or not any(vector):
        return [0.0] * dim
    largest = max(abs(v) for v in vector)
    norm = math.sqrt(math.fsum((v / largest) ** 2 for v in vector))
    return [v / largest / norm for v in vector]


def standardised(vectors: Sequence[Sequence[float] | None], dim: int) -> list[list[float]]:
    """Components minus their mean, over their deviation; zeros for none."""
    there = [vector for vector in vectors if vector is not None]
    columns = [[vector[i] for vector in there] for i in range(dim)]
    scales = [mean_and_std(column, [1.0] * len(column)) for column in columns if column]
    stds = [
        std if max(column) > min(column) else 1.0
        for column, (_, std) in zip(columns, scales, strict=False)
    ]
    return [
        [0.0] * dim
        if vector is None
        else [(v - m) / s for v, (m, _), s in zip(vector, scales, stds, strict=True)]
        for vector in vectors
    ]


def mean_and_std(values: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    total = math.fsum(weights)
    mean = math.fsum(w * v for v, w in zip(values, weights, strict=True)) / total
    square = math.fsum(w * (v - mean) ** 2 for v, w in zip(values, weights, strict=True)) / total
    return mean, math.sqrt(square)
