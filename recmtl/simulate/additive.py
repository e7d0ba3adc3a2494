"""The best additive model: what can be known without any interaction.

Shape letters: N impressions, M levels of one column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recmtl.simulate.world import Floats, Ints, sigmoid

__all__ = ["fit_additive", "predict_additive"]

RIDGE = 1e-3
"""Keeps the effect of a level that no row has at zero."""


def fit_additive(
    columns: Sequence[Ints], prob_N: Floats, *, max_cycles: int = 20, tol: float = 1e-3
) -> list[Floats]:
    r"""Fit a logistic model of main effects to known probabilities.

    .. math:: \max_{b} \sum_n p_n \log\sigma(z_n) + (1 - p_n) \log\sigma(-z_n),
        \qquad z_n = \sum_c b_c[x_{nc}]

    The targets are the probabilities themselves, not draws from them. Newton steps, one column
    after the other: the Hessian within a column is diagonal.

    Args:
        columns: level of each row, one array [N] a column.
        prob_N: true probability of each row.
        max_cycles: upper limit of the number of passes over all columns.
        tol: a pass whose largest step is below this is the last one.

    Returns:
        One array [M] of effects a column.

    Example:
        >>> level = np.array([0, 0, 1, 1])
        >>> (effect,) = fit_additive([level], np.array([0.2, 0.4, 0.5, 0.7]))
        >>> sigmoid(effect).round(2)
        array([0.3, 0.6])
    """
    effects = [np.zeros(int(x_N.max()) + 1) for x_N in columns]
    logit_N = np.zeros(len(prob_N))
    for _ in range(max_cycles):
        largest = 0.0
        for x_N, effect_M in zip(columns, effects, strict=True):
            fitted_N = sigmoid(logit_N)
            slope_M = np.bincount(x_N, prob_N - fitted_N, len(effect_M)) - RIDGE * effect_M
            curvature_M = np.bincount(x_N, fitted_N * (1 - fitted_N), len(effect_M)) + RIDGE
            step_M = np.clip(slope_M / curvature_M, -2.0, 2.0)
            effect_M += step_M
            logit_N += step_M[x_N]
            largest = max(largest, float(np.abs(step_M).max()))
        if largest < tol:
            break
    return effects


def predict_additive(effects: Sequence[Floats], columns: Sequence[NDArray[np.int64]]) -> Floats:
    """The logits of rows under fitted effects; a level beyond the fitted ones has no effect."""
    logit_N = np.zeros(len(columns[0]))
    for effect_M, x_N in zip(effects, columns, strict=True):
        known_N = x_N < len(effect_M)
        logit_N[known_N] += effect_M[x_N[known_N]]
    return logit_N
