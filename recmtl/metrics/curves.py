"""Columns of a plot: reliability and score distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from recmtl._checks import require_positive
from recmtl.metrics._bins import EqualMass, ranked
from recmtl.metrics._columns import Floats, columns
from recmtl.metrics.calibration import total_weight
from recmtl.metrics.population import Rows, blocks_of, population_of

__all__ = [
    "Histogram",
    "Reliability",
    "histogram_of",
    "reliability_bins",
    "reliability_of",
    "score_histogram",
]


class Reliability(NamedTuple):
    """What was promised and what came, in each bin of equal mass that is not empty."""

    weights: Floats
    """Weight of the bin's rows (their number without weights)."""
    mean_probs: Floats
    """Mean predicted probability."""
    base_rates: Floats
    """Share of positives."""


def reliability_bins(
    probs: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 20
) -> Reliability:
    """Mean prediction against the share of positives, in bins of equal mass.

    Rows with equal predictions stay together: they all go to the bin that the middle of their mass
    falls into. A bin whose mass is taken by such a tie is empty and left out.

    Args:
        probs: probabilities.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.
        bins: how many bins.

    Returns:
        One entry for each bin that is not empty, in ascending order of probability.

    Example:
        >>> curve = reliability_bins([0.1, 0.2, 0.6, 0.8], [0, 0, 0, 1], bins=2)
        >>> curve.mean_probs.round(2).tolist(), curve.base_rates.tolist()
        ([0.15, 0.7], [0.0, 0.5])
    """
    require_positive(bins=bins)
    population = population_of(columns(probs, labels, weights, probs=True))
    return reliability_of(ranked(population, None, total_weight(population), bins).bins)


def reliability_of(bins: EqualMass) -> Reliability:
    """Reliability of the bins of one cell."""
    if not bins.columns:
        return Reliability(np.empty(0), np.empty(0), np.empty(0))
    mass, promised, came = (np.concatenate(c) for c in zip(*bins.columns, strict=True))
    return Reliability(mass.astype(np.float64), promised / mass, came / mass)


class Histogram(NamedTuple):
    """How scores are distributed in either class."""

    edges: Floats
    """Edges of the bins, one more than there are bins."""
    positives: Floats
    """Weight of the positive rows in each bin."""
    negatives: Floats
    """Weight of the negative rows in each bin."""


def score_histogram(
    scores: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 50,
    limits: tuple[float, float] | None = None,
) -> Histogram:
    """Distribution of the scores of positives and of negatives, in bins of equal width.

    Args:
        scores: probabilities or logits; logits show more of a rare event.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.
        bins: how many bins.
        limits: first and last edge (default: the smallest and largest score); scores outside are
            put into the first or last bin.

    Returns:
        Edges and weights of the bins.

    Example:
        >>> score_histogram([0.1, 0.2, 0.9], [0, 1, 1], bins=2, limits=(0, 1)).positives.tolist()
        [1.0, 1.0]
    """
    require_positive(bins=bins)
    rows = columns(scores, labels, weights)
    return histogram_of(lambda: blocks_of(rows), bins=bins, limits=limits)


def histogram_of(
    blocks: Callable[[], Iterator[Rows]],
    *,
    bins: int = 50,
    limits: tuple[float, float] | None = None,
    within: float = np.inf,
) -> Histogram:
    """`score_histogram` of rows that are read once or twice.

    Args:
        blocks: reads them.
        bins: how many bins.
        limits: first and last edge; default: the smallest and largest score.
        within: edges lie between minus this and this.
    """
    if limits is None:
        ends = [(r.predictions.min(), r.predictions.max()) for r in blocks() if len(r.labels)]
        limits = (
            (float(min(low for low, _ in ends)), float(max(high for _, high in ends)))
            if ends
            else (0.0, 1.0)
        )
    low, high = np.clip(limits, -within, within).tolist()
    edges = np.histogram_bin_edges(np.empty(0), bins, (low, high))
    positives, negatives = np.zeros((2, bins))
    for rows in blocks():
        score_N = rows.predictions.clip(low, high).astype(np.float64)
        weight_N = np.ones(len(score_N)) if rows.weights is None else rows.weights
        for into, is_class in ((positives, rows.labels == 1), (negatives, rows.labels != 1)):
            into += np.histogram(score_N, edges, weights=weight_N * is_class)[0]
    return Histogram(edges, positives, negatives)
