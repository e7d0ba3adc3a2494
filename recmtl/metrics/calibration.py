"""Whether probabilities mean what they say. Shape letters: N rows, V distinct values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recmtl._checks import require_positive
from recmtl.metrics._columns import Columns, Floats, TieTable, columns, tie_table
from recmtl.metrics.curves import reliability_of

__all__ = ["ece", "ece_of", "logloss", "logloss_of", "ne", "ne_of", "pcoc", "pcoc_of"]


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
    return logloss_of(columns(predictions, labels, weights, probs=not logits), logits=logits)


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
    rows = columns(predictions, labels, weights, probs=not logits)
    return ne_of(rows, logloss_of(rows, logits=logits))


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
    rows = columns(probs, labels, weights, probs=True)
    return pcoc_of(rows, rows.predictions.astype(np.float64))


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
    rows = columns(probs, labels, weights, probs=True)
    if not len(rows.labels):
        return None
    table = tie_table(rows)
    return ece_of(table, table.values_V.astype(np.float64), bins)


def logloss_of(rows: Columns, *, logits: bool) -> float | None:
    """Logloss of checked columns."""
    if not len(rows.labels):
        return None
    prediction_N = rows.predictions.astype(np.float64)
    if logits:
        loss_N = np.logaddexp(0.0, np.where(rows.labels == 1, -prediction_N, prediction_N))
    else:
        eps = float(np.finfo(rows.predictions.dtype).eps)
        prob_N = prediction_N.clip(eps, 1 - eps)
        loss_N = -np.log(np.where(rows.labels == 1, prob_N, 1 - prob_N))
    return float(np.average(loss_N, weights=rows.weights))


def ne_of(rows: Columns, loss: float | None) -> float | None:
    """Normalised entropy of checked columns whose logloss is known."""
    if loss is None:
        return None
    rate = float(np.average(rows.labels, weights=rows.weights))
    if not 0 < rate < 1:
        return None
    return float(loss / -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def pcoc_of(rows: Columns, prob_N: Floats) -> float | None:
    """PCOC of checked columns and their probabilities."""
    if not rows.labels.any():
        return None
    mean = np.average(prob_N, weights=rows.weights)
    return float(mean / np.average(rows.labels, weights=rows.weights))


def ece_of(table: TieTable, probs_V: Floats, bins: int = 20) -> float:
    """ECE of a tie table, each of whose values stands for a probability."""
    weights, mean_probs, base_rates = reliability_of(table, probs_V, bins)
    return float(np.average(np.abs(mean_probs - base_rates), weights=weights))
