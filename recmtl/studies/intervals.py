"""Means over seeds, paired differences, and intervals that hold 95 % of what chance would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVEL", "Difference", "Mean", "difference_of", "mean_of", "t_quantile"]

LEVEL = 0.95
_STEPS = 1 << 15
_MOST_DEGREES = 10_000.0


@dataclass(frozen=True)
class Mean:
    """A mean over seeds."""

    value: float
    half_width: float | None
    """Half of the 95 % interval, by Student's t; None of one seed, which says nothing of chance."""


@dataclass(frozen=True)
class Difference:
    """A metric of one model less that of another on the same rows, mean over the same seeds."""

    value: float
    users: tuple[float, float] | None
    """95 % of what other users would make of it: percentiles of the bootstrap. None where resamples
    leave the metric undefined."""
    seeds: float | None
    """Half of the 95 % interval of what other seeds would make of it; None of one seed."""
    interval: tuple[float, float] | None
    """Both together; `users` alone where there is one seed."""

    @property
    def is_tie(self) -> bool:
        """Whether the interval holds 0, or there is none."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    r"""Half-width in standard errors that Student's t stays within with probability `level`.

    With :math:`t = \sqrt{\nu} \tan\theta` the density is proportional to
    :math:`\cos^{\nu-1}\theta`, which is summed up numerically.

    Example:
        >>> [round(t_quantile(degrees), 3) for degrees in (1, 2, 4, 30)]
        [12.706, 4.303, 2.776, 2.042]
    """
    degrees = min(degrees, _MOST_DEGREES)
    theta = np.linspace(0.0, math.pi / 2, _STEPS + 1)
    density = np.cos(theta) ** (degrees - 1)
    inside = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(float(np.interp(level * inside[-1], inside, theta)))


def mean_of(values: Sequence[float]) -> Mean:
    """The mean over seeds with its interval.

    Example:
        >>> mean = mean_of([0.70, 0.72, 0.74])
        >>> round(mean.value, 3), round(mean.half_width, 4)
        (0.72, 0.0497)
    """
    column = np.asarray(values, np.float64)
    return Mean(float(column.mean()), _half_width(column))


def difference_of(
    first: Sequence[float],
    second: Sequence[float],
    first_SR: NDArray[np.float64],
    second_SR: NDArray[np.float64],
) -> Difference:
    """The paired difference of two models.

    What chance does comes from two sides that know nothing of each other: which users the rows are
    of (variance of the bootstrap, models fixed) and which seeds the models have (variance of the
    mean over seeds, rows fixed). The variances add up, and the degrees of freedom are those of
    Welch and Satterthwaite.

    Args:
        first: a metric of one model, by seed.
        second: that of the other, by the same seeds.
        first_SR: the same in each resample, ``[S, R]``.
        second_SR: that of the other, on the same resamples.
    """
    difference_S = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    difference_R = (first_SR - second_SR).mean(axis=0)
    difference_R = difference_R[np.isfinite(difference_R)]
    value, seeds = float(difference_S.mean()), _half_width(difference_S)
    if len(difference_R) < 2:
        return Difference(value, None, seeds, None)
    low, high = np.quantile(difference_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    users = (float(low), float(high))
    if len(difference_S) < 2:
        return Difference(value, users, None, users)
    of_users = float(difference_R.var(ddof=1))
    of_seeds = float(difference_S.var(ddof=1)) / len(difference_S)
    total = of_users + of_seeds
    degrees = _MOST_DEGREES
    if of_seeds > 0:
        degrees = (len(difference_S) - 1) * (total / of_seeds) ** 2
    half = t_quantile(degrees) * math.sqrt(total)
    return Difference(value, users, seeds, (value - half, value + half))


def _half_width(column: NDArray[np.float64]) -> float | None:
    if len(column) < 2:
        return None
    error = float(column.std(ddof=1)) / math.sqrt(len(column))
    return t_quantile(len(column) - 1) * error
