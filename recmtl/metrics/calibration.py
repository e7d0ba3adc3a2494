"""Whether probabilities mean what they say. Shape letters: N rows, S values of a segment column."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recmtl._checks import require_positive
from recmtl.metrics._bins import ranked, sigmoid
from recmtl.metrics._columns import Floats, columns
from recmtl.metrics.population import Codes, Population, Rows, blocks_of, population_of

__all__ = ["BinarySums", "Judged", "ece", "judged", "logloss", "ne", "pcoc", "total_weight"]


def logloss(
    predictions: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    logits: bool = False,
) -> float | None:
    r"""Mean negative log-likelihood: :math:`-\overline{y \log p + (1 - y) \log(1 - p)}`.

    From logits it is exact. Probabilities are clipped to [eps, 1 - eps], with the eps of their
    dtype (as in scikit-learn): a probability that rounds to 1 has lost what the loss would need.

    Args:
        predictions: probabilities, or logits.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.
        logits: whether the predictions are logits.

    Returns:
        The mean, or None without rows.

    Example:
        >>> round(logloss([0.5, 0.25], [1, 0]), 4)
        0.4904
        >>> round(logloss([-1000.0, 2.0], [1, 1], logits=True), 4)
        500.0635
    """
    return _sums(predictions, labels, weights, logits=logits).logloss(0)


def ne(
    predictions: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    logits: bool = False,
) -> float | None:
    """Normalised entropy: logloss over that of always saying the base rate; below 1 is skill.

    Reference: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014,
        equation (3).

    Args:
        predictions: probabilities, or logits; see `logloss`.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.
        logits: whether the predictions are logits.

    Returns:
        The ratio, or None unless both classes are there.

    Example:
        >>> ne([0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0])
        1.0
    """
    return _sums(predictions, labels, weights, logits=logits).ne(0)


def pcoc(probs: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Predicted over observed positives: the mean prediction over the base rate.

    Args:
        probs: probabilities.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.

    Returns:
        The ratio, or None without a positive.

    Example:
        >>> pcoc([0.25, 0.75], [0, 1])
        1.0
    """
    return _sums(probs, labels, weights, logits=False).pcoc(0)


def ece(
    probs: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 20
) -> float | None:
    r"""Expected calibration error: :math:`\sum_k m_k |\bar p_k - \bar y_k|` over equal masses.

    The bins are those of `reliability_bins`; rows with equal predictions stay together.

    Args:
        probs: probabilities.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.
        bins: how many bins.

    Returns:
        The error, or None without rows.

    Example:
        >>> ece([0.1, 0.2, 0.6, 0.8], [0, 0, 0, 1], bins=2)
        0.175
    """
    require_positive(bins=bins)
    population = population_of(columns(probs, labels, weights, probs=True))
    if not population.num_rows:
        return None
    found = ranked(population, None, total_weight(population), bins)
    return float(found.ece_S[0])


class Judged(NamedTuple):
    """Rows of a binary task beside what is summed over them."""

    labels: NDArray[Any]
    weights: NDArray[Any] | None
    losses: Floats
    probs: Floats


def judged(rows: Rows, *, logits: bool) -> Judged:
    """Loss and probability of each row, in float64."""
    is_positive = rows.labels == 1
    if logits:
        logit_N = rows.predictions.astype(np.float64)
        wrong_N = np.where(is_positive, -logit_N, logit_N)
        losses = np.maximum(wrong_N, 0.0) + np.log1p(np.exp(-np.abs(logit_N)))
        return Judged(is_positive, rows.weights, losses, sigmoid(logit_N))
    eps = float(np.finfo(rows.predictions.dtype).eps)
    probs = rows.predictions.astype(np.float64)
    prob_N = probs.clip(eps, 1 - eps)
    losses = -np.log(np.where(is_positive, prob_N, 1 - prob_N))
    return Judged(is_positive, rows.weights, losses, probs)


class BinarySums:
    """Sums over the rows of each segment value that are read off without an order.

    Args:
        size: how many values.
    """

    def __init__(self, size: int) -> None:
        """Start with no row."""
        self.rows_S = np.zeros(size, np.int64)
        self.positives_S = np.zeros(size, np.int64)
        self._is_weighted = False
        self._weight_S, self._came_S = np.zeros(size), np.zeros(size)
        self._promised_S, self._loss_S = np.zeros(size), np.zeros(size)

    def add(self, block: Judged, codes: Codes | None = None) -> None:
        """Take rows in, each of the segment value that its code says; without codes, of value 0."""
        size = len(self.rows_S)
        code_N = np.zeros(len(block.labels), np.intp) if codes is None else codes.astype(np.intp)
        self.rows_S += np.bincount(code_N, minlength=size)
        self.positives_S += np.bincount(code_N[block.labels], minlength=size)
        losses, probs = block.losses, block.probs
        if block.weights is not None:
            self._is_weighted = True
            weight_N = block.weights.astype(np.float64)
            losses, probs = losses * weight_N, probs * weight_N
            self._weight_S += np.bincount(code_N, weight_N, size)
            self._came_S += np.bincount(code_N[block.labels], weight_N[block.labels], size)
        self._loss_S += np.bincount(code_N, losses, size)
        self._promised_S += np.bincount(code_N, probs, size)

    @property
    def total_S(self) -> NDArray[Any]:
        """Weight of the rows; their number, in integers, without weights."""
        return self._weight_S if self._is_weighted else self.rows_S

    @property
    def came_S(self) -> NDArray[Any]:
        """Weight of the positive rows; their number without weights."""
        return self._came_S if self._is_weighted else self.positives_S

    def logloss(self, s: int) -> float | None:
        """Mean loss; None without rows."""
        return float(self._loss_S[s] / self.total_S[s]) if self.rows_S[s] else None

    def ne(self, s: int) -> float | None:
        """Normalised entropy; None unless both classes are there."""
        loss = self.logloss(s)
        if loss is None or not 0 < self.positives_S[s] < self.rows_S[s]:
            return None
        rate = float(self.came_S[s] / self.total_S[s])
        return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))

    def pcoc(self, s: int) -> float | None:
        """Promised over observed positives; None without a positive."""
        return float(self._promised_S[s] / self.came_S[s]) if self.positives_S[s] else None


def total_weight(population: Population) -> NDArray[Any]:
    """Weight of all rows, as `BinarySums.total_S` has it."""
    total: float = 0
    for rows in population.blocks():
        total += len(rows.labels) if rows.weights is None else float(rows.weights.sum())
    return np.array([total])


def _sums(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None, *, logits: bool
) -> BinarySums:
    sums = BinarySums(1)
    for rows in blocks_of(columns(predictions, labels, weights, probs=not logits)):
        sums.add(judged(rows, logits=logits))
    return sums
