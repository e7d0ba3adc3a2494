"""What a metric would be on other users: the bootstrap over groups of rows.

Shape letters: N rows, P positive rows, M negative rows, G groups, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["Resamples", "resampled_auc", "resampled_mean"]

Floats = NDArray[np.float64]
_KEPT_BYTES = 256 * 2**20
_MOST_COUNT = np.iinfo(np.uint8).max


class Resamples:
    """How often each group is drawn in each resample, G draws with replacement.

    They depend on the seed and on the resample's number alone, so every model and every task is
    judged on the same draws, and differences are paired.

    Args:
        num_groups: number of groups G.
        count: number of resamples R.
        seed: decides the draws.

    Example:
        >>> draws = list(Resamples(4, 2, seed=0))
        >>> len(draws), [int(draw.sum()) for draw in draws]
        (2, [4, 4])
    """

    def __init__(self, num_groups: int, count: int, seed: int) -> None:
        self.num_groups, self.count, self.seed = num_groups, count, seed
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        """The counts ``[G]`` of one resample after the other."""
        for number in range(self.count):
            yield self._counts(number)

    def _counts(self, number: int) -> NDArray[np.integer]:
        if number in self._kept:
            return self._kept[number]
        draws = np.random.default_rng([self.seed, number])
        drawn = draws.integers(0, self.num_groups, self.num_groups, dtype=np.int64)
        count_G = np.bincount(drawn, minlength=self.num_groups)
        if self.count * self.num_groups <= _KEPT_BYTES and count_G.max(initial=0) <= _MOST_COUNT:
            self._kept[number] = count_G.astype(np.uint8)
        return count_G


def resampled_auc(
    score_N: NDArray[np.floating],
    label_N: NDArray[np.generic],
    group_N: NDArray[np.integer],
    resamples: Resamples,
    weight_N: NDArray[np.floating] | None = None,
) -> tuple[float, Floats]:
    r"""AUC, and AUC of each resample, where a row counts as often as its group is drawn.

    .. math::
        \frac{\sum_{i: y_i=1} c_i \, (C(l_i) + C(u_i))}{2 \, \sum_{y_i=1} c_i \, \sum_{y_j=0} c_j}

    with :math:`C(k)` the sum of the :math:`c` of the k lowest negatives, and :math:`l_i` and
    :math:`u_i` the numbers of negatives that score below, and not above, row i: a tie counts half.
    Rows are sorted once; a resample is one cumulative sum. Exact: without weights the sums are
    integers.

    Args:
        score_N: any scores.
        label_N: 0 or 1.
        group_N: number of each row's group.
        resamples: the draws.
        weight_N: sample weights.

    Returns:
        The AUC, and ``[R]`` of the resamples; NaN where only one class is there.

    Example:
        >>> auc, auc_R = resampled_auc(
        ...     np.array([0.1, 0.4, 0.4, 0.9]),
        ...     np.array([0, 0, 1, 1]),
        ...     np.arange(4),
        ...     Resamples(4, 10, seed=0),
        ... )
        >>> auc, auc_R.shape
        (0.875, (10,))
    """
    is_positive_N = label_N.astype(np.bool_)
    score_M, score_P = score_N[~is_positive_N], score_N[is_positive_N]
    order_M, order_P = np.argsort(score_M, kind="stable"), np.argsort(score_P, kind="stable")
    score_M, score_P = score_M[order_M], score_P[order_P]
    lower_P = np.searchsorted(score_M, score_P, side="left")
    upper_P = np.searchsorted(score_M, score_P, side="right")
    group_M, group_P = group_N[~is_positive_N][order_M], group_N[is_positive_N][order_P]
    weight_M = weight_P = None
    if weight_N is not None:
        weight_M = weight_N[~is_positive_N][order_M].astype(np.float64)
        weight_P = weight_N[is_positive_N][order_P].astype(np.float64)
    below = np.zeros(len(score_M) + 1, np.int64 if weight_N is None else np.float64)

    def area(count_G: NDArray[np.integer]) -> float:
        count_M, count_P = count_G[group_M], count_G[group_P].astype(below.dtype)
        if weight_M is not None:
            count_M, count_P = count_M * weight_M, count_P * weight_P
        np.cumsum(count_M, dtype=below.dtype, out=below[1:])
        pairs = 2.0 * float(count_P.sum()) * float(below[-1])
        # No product of the BLAS: its threads would wait for one another a thousand times.
        won = float((count_P * (below[lower_P] + below[upper_P])).sum())
        return won / pairs if pairs > 0 else math.nan

    once_G = np.ones(resamples.num_groups, np.uint8)
    return area(once_G), np.array([area(count_G) for count_G in resamples])


def resampled_mean(
    value_N: NDArray[np.floating],
    group_N: NDArray[np.integer],
    resamples: Resamples,
    weight_N: NDArray[np.floating] | None = None,
) -> tuple[float, Floats]:
    """Weighted mean of a number of each row, and that of each resample.

    Args:
        value_N: the numbers, such as squared errors.
        group_N: number of each row's group.
        resamples: the draws.
        weight_N: sample weights.

    Returns:
        The mean, and ``[R]`` of the resamples; NaN where no row is left.

    Example:
        >>> mean, mean_R = resampled_mean(
        ...     np.array([1.0, 3.0]), np.arange(2), Resamples(2, 5, seed=1)
        ... )
        >>> mean, bool(((mean_R >= 1) & (mean_R <= 3)).all())
        (2.0, True)
    """
    weight_N = np.ones(len(value_N)) if weight_N is None else weight_N.astype(np.float64)
    size = resamples.num_groups
    total_G = np.bincount(group_N, weight_N * value_N, size)
    weight_G = np.bincount(group_N, weight_N, size)

    def mean(count_G: NDArray[np.integer]) -> float:
        weight = float((weight_G * count_G).sum())
        return float((total_G * count_G).sum()) / weight if weight > 0 else math.nan

    return mean(np.ones(size, np.uint8)), np.array([mean(count_G) for count_G in resamples])
