"""Lookups and fused updates as plain loops in float64. Imports nothing from recmtl.

A feature is ``{"table", "kind": single | bag | sequence, "pooling", "max_len"}``, a row maps each
feature to a list of ``(id, weight)``, a table is an array ``[rows, E]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = Mapping[str, Mapping[str, Any]]
Entries = Sequence[tuple[int, float]]
Row = Mapping[str, Entries]


def shares(feature: Mapping[str, Any], entries: Entries) -> list[float]:
    """What each id of a row counts in its pooled vector."""
    if feature["pooling"] == "sum":
        return [weight for _, weight in entries]
    total = sum(weight for _, weight in entries)
    return [weight / total if total != 0 else 0.0 for _, weight in entries]


def look_up(features: Features, tables: Mapping[str, Floats], row: Row) -> dict[str, Floats]:
    """Feature -> vector [E], or [L, E] for a sequence, of one row."""
    found = {}
    for name, feature in features.items():
        table = tables[feature["table"]]
        if feature["kind"] == "sequence":
            vectors = np.zeros((feature["max_len"], table.shape[1]))
            for position, (index, _) in enumerate(row[name]):
                vectors[position] = table[index]
            found[name] = vectors
        else:
            vector = np.zeros(table.shape[1])
            for (index, _), share in zip(row[name], shares(feature, row[name]), strict=True):
                vector += share * table[index]
            found[name] = vector
    return found


def table_gradients(
    features: Features,
    tables: Mapping[str, Floats],
    rows: Sequence[Row],
    upstream: Sequence[Mapping[str, Floats]],
) -> dict[str, Floats]:
    """Table -> gradient [rows, E], where `upstream` holds the gradient of each looked-up vector."""
    gradients = {name: np.zeros_like(table) for name, table in tables.items()}
    for row, of_vectors in zip(rows, upstream, strict=True):
        for name, feature in features.items():
            gradient = gradients[feature["table"]]
            if feature["kind"] == "sequence":
                for position, (index, _) in enumerate(row[name]):
                    gradient[index] += of_vectors[name][position]
            else:
                for (index, _), share in zip(row[name], shares(feature, row[name]), strict=True):
                    gradient[index] += share * of_vectors[name]
    return gradients


class FusedReference:
    """Exact fused optimizers: gradients of duplicate ids add up before the one step of a row."""

    def __init__(self, kind: str, tables: Mapping[str, Any], lr: float, eps: float) -> None:
        self.kind, self.lr, self.eps = kind, lr, eps
        self.tables = {name: np.array(table, dtype=np.float64) for name, table in tables.items()}
        self.state = {
            name: np.zeros(len(table) if kind == "rowwise_adagrad" else table.shape)
            for name, table in self.tables.items()
        }

    def step(self, gradients: Mapping[str, Floats]) -> None:
        for name, gradient in gradients.items():
            for r in range(len(gradient)):
                if self.kind == "sgd":
                    scale = self.lr
                elif self.kind == "rowwise_adagrad":
                    self.state[name][r] += np.mean(gradient[r] ** 2)
                    scale = self.lr / (np.sqrt(self.state[name][r]) + self.eps)
                else:
                    self.state[name][r] += gradient[r] ** 2
                    scale = self.lr / (np.sqrt(self.state[name][r]) + self.eps)
                self.tables[name][r] -= scale * gradient[r]
