"""Metrics by their definitions, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

__all__ = ["auc", "ece", "gauc", "logloss"]


def auc(scores: Sequence[float], labels: Sequence[int], weights: Sequence[float]) -> float | None:
    """Share of pairs of a positive and a negative in which the positive scores higher."""
    won, pairs = 0.0, 0.0
    for s, y, w in zip(scores, labels, weights, strict=True):
        for t, z, v in zip(scores, labels, weights, strict=True):
            if y == 1 and z == 0:
                pairs += w * v
                won += w * v * (1.0 if s > t else 0.5 if s == t else 0.0)
    return won / pairs if pairs else None


def gauc(
    scores: Sequence[float],
    labels: Sequence[int],
    groups: Sequence[Hashable],
    weights: Sequence[float],
) -> tuple[float | None, int, int]:
    """Mean of the groups' AUCs by weight, and how many groups have one or none."""
    total, mass, defined, undefined = 0.0, 0.0, 0, 0
    counted = [n for n, w in enumerate(weights) if w > 0]
    for group in {groups[n] for n in counted}:
        inside = [n for n in counted if groups[n] == group]
        of_group = [weights[n] for n in inside]
        value = auc([scores[n] for n in inside], [labels[n] for n in inside], of_group)
        if value is None:
            undefined += 1
        else:
            defined += 1
            total += sum(of_group) * value
            mass += sum(of_group)
    return (total / mass if defined else None), defined, undefined


def logloss(logits: Sequence[float], labels: Sequence[int], weights: Sequence[float]) -> float:
    """Mean of log(1 + exp(-z)) over positives and log(1 + exp(z)) over negatives."""
    total = 0.0
    for z, y, w in zip(logits, labels, weights, strict=True):
        margin = z if y == 1 else -z
        total += w * (math.log1p(math.exp(-margin)) if margin > -30 else -margin)
    return total / sum(weights)


def ece(
    probs: Sequence[float], labels: Sequence[int], weights: Sequence[float], num_bins: int
) -> float:
    """Error per bin; a tie goes where the middle of its mass falls."""
    total = sum(weights)
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    below = 0.0
    for value in sorted(set(probs)):
        tied = [n for n, p in enumerate(probs) if p == value]
        mass = sum(weights[n] for n in tied)
        bins[min(int(num_bins * (below + mass / 2) / total), num_bins - 1)].extend(tied)
        below += mass
    error = 0.0
    for inside in bins:
        gap = sum(weights[n] * (probs[n] - labels[n]) for n in inside)
        error += abs(gap) / total
    return error
