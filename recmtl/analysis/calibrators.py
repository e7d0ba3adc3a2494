"""Calibrators fitted to what was predicted and what came: Platt's line and isotonic regression.

Shape letters: N rows, V distinct predictions, K pools of rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics._ties import Cells, ties_of
from recmtl.metrics.population import Population
from recmtl.tasks.calibrator import Calibrator

__all__ = ["Pools", "fit_isotonic", "fit_platt", "pooled"]

Floats = NDArray[np.float64]

_STEEPEST = 20.0
"""Slope that an isotonic calibrator may have at most: logits carry rounding errors, and what one is
multiplied by, these are too."""
_STEPS = 100


def fit_platt(population: Population) -> Calibrator | None:
    r"""The line :math:`z' = a z + b` of the greatest likelihood.

    As Platt's, it is fitted to targets a little inside 0 and 1:
    :math:`(n_+ + 1) / (n_+ + 2)` and :math:`1 / (n_- + 2)`, with the weights of the rows of each
    class.

    Reference: Platt, "Probabilistic Outputs for Support Vector Machines", 1999, section 2.2; by
        Newton's method as in Lin, Lin and Weng, "A Note on Platt's Probabilistic Outputs for
        Support Vector Machines", Machine Learning 2007, section 3.

    Args:
        population: logits and labels of a binary task.

    Returns:
        The line; None where it would not rise: then predictions say nothing of the labels, or the
        opposite.
    """
    positives, negatives = _class_weights(population)
    targets = (1 / (negatives + 2), (positives + 1) / (positives + 2))
    rate = positives / (positives + negatives)
    line = np.array([0.0, np.log(rate / (1 - rate))])
    loss, gradient, curvature = _platt_sums(population, line, targets)
    for _ in range(_STEPS):
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        promised = float(gradient @ step)
        if promised <= 1e-12 * (positives + negatives):
            break
        size = 1.0
        while size > 1e-10:
            sums = _platt_sums(population, line - size * step, targets)
            if sums[0] <= loss - 1e-4 * size * promised:
                break
            size /= 2
        else:
            break
        line = line - size * step
        loss, gradient, curvature = sums
    slope, intercept = map(float, line)
    if not slope > 1e-6:
        return None
    return Calibrator(at=(0.0,), values=(intercept,), below=slope, above=slope)


def _platt_sums(
    population: Population, line: Floats, targets: tuple[float, float]
) -> tuple[float, Floats, Floats]:
    """Loss of a line over all rows, its gradient and its curvature."""
    loss, gradient, curvature = 0.0, np.zeros(2), np.zeros((2, 2))
    for rows in population.blocks():
        z_N = rows.predictions.astype(np.float64)
        weight_N = np.ones_like(z_N) if rows.weights is None else rows.weights.astype(np.float64)
        target_N = np.where(rows.labels == 1, targets[1], targets[0])
        input_N2 = np.stack([z_N, np.ones_like(z_N)], axis=1)
        logit_N = input_N2 @ line
        prob_N = 0.5 * (1 + np.tanh(0.5 * logit_N))
        loss += float(weight_N @ (np.logaddexp(0.0, logit_N) - target_N * logit_N))
        gradient += input_N2.T @ (weight_N * (prob_N - target_N))
        curvature += (input_N2.T * (weight_N * prob_N * (1 - prob_N))) @ input_N2
    return loss, gradient, curvature


class Pools(NamedTuple):
    """Rows that are next to each other in their predictions, taken together."""

    moments_K: Floats
    """Sum of their predictions, each times its weight."""
    positives_K: Floats
    """Weight of the positive rows."""
    weights_K: Floats
    """Weight of all rows."""


def fit_isotonic(population: Population) -> Calibrator | None:
    """The increasing line through the pools of isotonic regression, one knot in the middle of each.

    Rows are pooled with their neighbours until the share of positives rises from pool to pool
    (pool adjacent violators). In between, the line is straight in logits, so that it keeps the
    order of predictions: an AUC stays what it is. Before the first and after the last knot it goes
    on with a slope of 1.

    Reference: Barlow et al., "Statistical Inference under Order Restrictions", 1972 (isotonic
        regression); Oron and Flournoy, "Centered Isotonic Regression: Point and Interval Estimation
        for Dose-Response Studies", Statistics in Biopharmaceutical Research 2017, section 3 (a knot
        in the middle of each pool).
    Departures: the line is straight in logits, not in probabilities; pools at the ends without one
        of the classes, and those that a slope of more than 20 leads to, join their neighbours.

    Args:
        population: logits and labels of a binary task, both classes among them.

    Returns:
        The line.
    """
    pools = pooled(population)
    while len(pools.weights_K) > 1 and pools.positives_K[0] == 0:
        pools = _joined(pools, 0)
    while len(pools.weights_K) > 1 and pools.positives_K[-1] == pools.weights_K[-1]:
        pools = _joined(pools, len(pools.weights_K) - 2)
    while True:
        at_K = pools.moments_K / pools.weights_K
        value_K = np.log(pools.positives_K / (pools.weights_K - pools.positives_K))
        rise_K, run_K = np.diff(value_K), np.diff(at_K)
        too_steep_K = rise_K - _STEEPEST * run_K
        if not len(rise_K) or too_steep_K.max() <= 0:
            return Calibrator(tuple(at_K.tolist()), tuple(value_K.tolist()), below=1.0, above=1.0)
        pools = _joined(pools, int(too_steep_K.argmax()))


def pooled(population: Population) -> Pools:
    """The pools of isotonic regression, in ascending order, with shares of positives that rise."""
    found = Pools(*(np.zeros(0) for _ in Pools._fields))
    for ties in ties_of(population, Cells.of(population, None, grouped=False)):
        weights_V = (ties.positives_V + ties.negatives_V).astype(np.float64)
        new = Pools(
            population.scores(ties.codes_V) * weights_V,
            ties.positives_V.astype(np.float64),
            weights_V,
        )
        found = Pools(*map(np.concatenate, zip(found, new, strict=True)))
        while True:
            _, positives_K, weights_K = found
            falls_K = positives_K[:-1] * weights_K[1:] >= positives_K[1:] * weights_K[:-1]
            if not falls_K.any():
                break
            starts_K = np.flatnonzero(np.concatenate([[True], ~falls_K]))
            found = Pools(*(np.add.reduceat(column, starts_K) for column in found))
    return found


def _joined(pools: Pools, k: int) -> Pools:
    """Pools `k` and `k + 1` as one."""
    starts_K = np.delete(np.arange(len(pools.weights_K)), k + 1)
    return Pools(*(np.add.reduceat(column, starts_K) for column in pools))


def _class_weights(population: Population) -> tuple[float, float]:
    positives = negatives = 0.0
    for rows in population.blocks():
        weight_N = np.ones(len(rows.labels)) if rows.weights is None else rows.weights
        positive = float(weight_N[rows.labels == 1].sum(dtype=np.float64))
        positives += positive
        negatives += float(weight_N.sum(dtype=np.float64)) - positive
    return positives, negatives
