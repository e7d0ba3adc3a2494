"""The losses in plain loops: single elements with 80 decimal digits, whole batches in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from typing import NamedTuple

__all__ = [
    "Outcome",
    "joint_terms",
    "multiclass_nll",
    "multiclass_nll_gradient",
    "product_nll",
    "product_nll_gradient",
]

_DIGITS = 80


def _sigmoid(logit: float) -> Decimal:
    return 1 / (1 + (-Decimal(logit)).exp())


def product_nll(logits: Sequence[float], target: int) -> float:
    """Minus the log of the probability that all events happen, or that not all do."""
    with localcontext() as context:
        context.prec = _DIGITS
        p = math.prod((_sigmoid(z) for z in logits), start=Decimal(1))
        return float(-(p if target else 1 - p).ln())


def product_nll_gradient(logits: Sequence[float], target: int) -> list[float]:
    """Its derivative with respect to each logit."""
    with localcontext() as context:
        context.prec = _DIGITS
        p = math.prod((_sigmoid(z) for z in logits), start=Decimal(1))
        outer = Decimal(-1) if target else p / (1 - p)
        return [float(outer * _sigmoid(-z)) for z in logits]


def multiclass_nll(logits: Sequence[float], target: int) -> float:
    """Minus the log of the share of one exponential in the sum of all."""
    with localcontext() as context:
        context.prec = _DIGITS + 100  # logits of +-100 are 10^87 apart
        powers = [Decimal(z).exp() for z in logits]
        return float(-(powers[target] / sum(powers)).ln())


def multiclass_nll_gradient(logits: Sequence[float], target: int) -> list[float]:
    """Its derivative with respect to each logit."""
    with localcontext() as context:
        context.prec = _DIGITS + 100
        powers = [Decimal(z).exp() for z in logits]
        return [float(p / sum(powers) - (c == target)) for c, p in enumerate(powers)]


class Outcome(NamedTuple):
    """A task: label and condition as columns, logits, weight, label scale, whether of classes.

    The logits are those of the heads that multiply to it, or those of its classes.
    """

    label: int
    given: int | None
    factors: tuple[int, ...]
    weight: float = 1.0
    scale: tuple[float, float] | None = None
    classes: bool = False


def joint_terms(
    outcomes: Mapping[str, Outcome],
    logits: Sequence[Sequence[float]],
    labels: Sequence[Sequence[float]],
    weights: Sequence[float],
    *,
    observed_only: bool,
) -> dict[str, float]:
    """Each outcome's term of the loss, row by row."""
    terms = {}
    for name, outcome in outcomes.items():
        total, seen = 0.0, 0.0
        for z, y, w in zip(logits, labels, weights, strict=True):
            target = y[outcome.label]
            if w == 0 or math.isnan(target):
                continue
            if outcome.given is not None and y[outcome.given] != 1:
                continue
            seen += w
            if outcome.classes:
                total += w * multiclass_nll([z[c] for c in outcome.factors], int(target))
            elif outcome.scale is None:
                total += w * product_nll([z[head] for head in outcome.factors], int(target))
            else:
                mean, std = outcome.scale
                total += w * (z[outcome.factors[0]] - (target - mean) / std) ** 2 / 2
        divisor = seen if observed_only else sum(weights)
        terms[name] = outcome.weight * total / divisor if divisor else 0.0
    return terms
