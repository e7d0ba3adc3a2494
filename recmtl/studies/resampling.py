"""What a metric would be on other users: the bootstrap over groups of rows.

Shape letters: N rows, P positive rows, M negative rows, G groups, R resamples, X sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ResampledArea",
    "Resamples",
    "ratio",
    "resampled_auc",
    "resampled_mean",
    "resampled_sums",
]

Floats = NDArray[np.float64]
_KEPT_BYTES = 256 * 2**20
_PRODUCT_FLOATS = 1 << 19
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


class ResampledArea:
    r"""AUC of rows that come in the order of their scores, block by block, and of each resample.

    .. math::
        \frac{\sum_{i: y_i=1} c_i \, (C(l_i) + C(u_i))}{2 \, \sum_{y_i=1} c_i \, \sum_{y_j=0} c_j}

    with :math:`c_i` how often row i counts, :math:`C(k)` the sum over the k lowest negatives, and
    :math:`l_i` and :math:`u_i` the numbers of negatives that score below, and not above, row i: a
    tie counts half. Exact: without weights the sums are integers.

    Args:
        resamples: the draws.
        is_weighted: whether rows will have weights.
    """

    def __init__(self, resamples: Resamples, *, is_weighted: bool) -> None:
        self._resamples = resamples
        self._dtype = np.float64 if is_weighted else np.int64
        # Number 0 is that of all rows, each once.
        sums = np.zeros((4, resamples.count + 1), self._dtype)
        self._below, self._before_tie, self._won, self._positive = sums

    def add(
        self,
        group_N: NDArray[np.integer],
        is_positive_N: NDArray[np.bool_],
        is_new_N: NDArray[np.bool_],
        weight_N: NDArray[np.floating] | None = None,
    ) -> None:
        """Take the next rows in.

        Args:
            group_N: number of each row's group.
            is_positive_N: labels; the negatives of a score come before its positives.
            is_new_N: whether a row scores above the one before it.
            weight_N: sample weights.
        """
        if not len(group_N):
            return
        positives_P, negatives_M = np.flatnonzero(is_positive_N), np.flatnonzero(~is_positive_N)
        upper_P = np.searchsorted(negatives_M, positives_P)
        first_N = np.maximum.accumulate(np.where(is_new_N, np.arange(len(is_new_N)), -1))
        lower_P = np.searchsorted(negatives_M, first_N[positives_P])
        num_open = int(np.searchsorted(first_N[positives_P], 0))  # of a score of an earlier block
        last = None if first_N[-1] < 0 else int(np.searchsorted(negatives_M, first_N[-1]))
        group_M, group_P = group_N[negatives_M], group_N[positives_P]
        weight_M = None if weight_N is None else weight_N[negatives_M].astype(np.float64)
        weight_P = None if weight_N is None else weight_N[positives_P].astype(np.float64)
        below = np.zeros(len(group_M) + 1, self._dtype)
        once_G: NDArray[np.integer] = np.ones(self._resamples.num_groups, np.uint8)
        for r, count_G in enumerate(chain([once_G], self._resamples)):
            count_M, count_P = count_G[group_M], count_G[group_P].astype(self._dtype)
            if weight_M is not None and weight_P is not None:
                count_M, count_P = count_M * weight_M, count_P * weight_P
            np.cumsum(count_M, dtype=self._dtype, out=below[1:])
            low_P = below[lower_P] + self._below[r]
            low_P[:num_open] = self._before_tie[r]
            # No product of the BLAS: its threads would wait for one another a thousand times.
            self._won[r] += (count_P * (low_P + below[upper_P] + self._below[r])).sum()
            self._positive[r] += count_P.sum()
            if last is not None:
                self._before_tie[r] = self._below[r] + below[last]
            self._below[r] += below[-1]

    def result(self) -> tuple[float, Floats]:
        """The AUC, and ``[R]`` of the resamples; NaN where only one class is there."""
        pairs = 2.0 * self._positive.astype(np.float64) * self._below
        areas = np.where(pairs > 0, self._won / np.where(pairs > 0, pairs, 1.0), np.nan)
        return float(areas[0]), areas[1:]


def resampled_auc(
    score_N: NDArray[np.floating],
    label_N: NDArray[np.generic],
    group_N: NDArray[np.integer],
    resamples: Resamples,
    weight_N: NDArray[np.floating] | None = None,
) -> tuple[float, Floats]:
    """AUC, and AUC of each resample, where a row counts as often as its group is drawn.

    Rows are sorted once; a resample is one cumulative sum (see `ResampledArea`).

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
    order = np.lexsort((is_positive_N, score_N))
    is_new_N = np.ones(len(order), np.bool_)
    is_new_N[1:] = score_N[order[1:]] != score_N[order[:-1]]
    area = ResampledArea(resamples, is_weighted=weight_N is not None)
    weights = None if weight_N is None else weight_N[order]
    area.add(group_N[order], is_positive_N[order], is_new_N, weights)
    return area.result()


def resampled_sums(sums_GX: Floats, resamples: Resamples) -> tuple[Floats, Floats]:
    """Sums over all groups, ``[X]``, and over the groups of each resample, ``[R, X]``.

    Args:
        sums_GX: what the rows of each group add up to.
        resamples: the draws.

    Example:
        >>> total_X, total_RX = resampled_sums(np.eye(3), Resamples(3, 5, seed=1))
        >>> total_X.tolist(), total_RX.sum(axis=1).tolist()
        ([1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0, 3.0])
    """
    found = []
    together = max(min(_PRODUCT_FLOATS // max(resamples.num_groups, 1), resamples.count), 1)
    draws = iter(resamples)
    while counts := list(islice(draws, together)):
        found.append(np.stack(counts).astype(np.float64) @ sums_GX)
    return sums_GX.sum(axis=0), np.concatenate(found)


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
    sums_G2 = np.stack(
        [
            np.bincount(group_N, column_N, resamples.num_groups)
            for column_N in (weight_N * value_N, weight_N)
        ],
        axis=1,
        dtype=np.float64,
    )
    total, total_R = resampled_sums(sums_G2, resamples)
    return float(ratio(total[0], total[1])), ratio(total_R[:, 0], total_R[:, 1])


def ratio(above: Floats, below: Floats) -> Floats:
    """A quotient, NaN where nothing stands below.

    Example:
        >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
        array([0.5, nan])
    """
    found: Floats = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
    return found
