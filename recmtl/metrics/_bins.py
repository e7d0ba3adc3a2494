"""What probabilities promised and what came, in bins of equal mass, from ties in order.

Shape letters: V distinct scores, S values of a segment column.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics._columns import Floats
from recmtl.metrics._ties import Cells, Runs, Ties, before, run_starts, ties_of
from recmtl.metrics.population import Population
from recmtl.metrics.ranking import Areas

__all__ = ["EqualMass", "RankedBySegment", "ranked", "sigmoid"]


def sigmoid(logit_N: NDArray[np.floating[Any]]) -> Floats:
    """Probabilities in float64, without overflow.

    Example:
        >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
        [0.0, 0.5, 1.0]
    """
    logit_N = logit_N.astype(np.float64)
    small_N = np.exp(-np.abs(logit_N))
    probs: Floats = np.where(logit_N >= 0, 1.0, small_N) / (1.0 + small_N)
    return probs


class EqualMass:
    """Bins of each cell, from ties in order; rows with equal scores go to one bin together.

    Args:
        total_S: weight of each cell's rows.
        bins: how many bins.

    Attributes:
        gap_S: sum over the bins of what was promised too much or too little, in weight.
        columns: of each bin that is not empty, in order: cell, weight, promised, and what came;
            kept where it is one cell.
        starts: rising keys ``cell << 32 | code`` of the entries at which a bin begins, or goes on,
            and the number ``cell * bins + bin`` of each.
    """

    def __init__(self, total_S: NDArray[Any], bins: int) -> None:
        """Start with no row."""
        self._total_S = total_S
        self._bins = bins
        self._mass, self._inside = Runs(), Runs()
        self.gap_S = np.zeros(len(total_S))
        self.columns: list[tuple[NDArray[Any], ...]] = []
        self.starts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []

    def add(self, ties: Ties, probs_V: Floats) -> None:
        """Take ties in, each of which stands for a probability."""
        mass_V = ties.positives_V + ties.negatives_V
        before_V = before(mass_V, ties.cells_V, self._mass, 0)
        self._mass.add((ties.cells_V,), (mass_V,))
        total_V = self._total_S[ties.cells_V]
        bin_V = self._bins * (2 * before_V + mass_V) // (2 * total_V)
        bin_V = np.minimum(bin_V, self._bins - 1).astype(np.int64)
        starts = run_starts(ties.cells_V, bin_V)
        cells, codes = ties.cells_V[starts], ties.codes_V[starts].astype(np.uint64)
        number = cells.astype(np.int64) * self._bins + bin_V[starts]
        self.starts.append((cells << np.uint64(32) | codes, number))
        values = (mass_V, mass_V * probs_V, ties.positives_V)
        (cells_V, _), sums = self._inside.add((ties.cells_V, bin_V), values)
        self._take(cells_V, sums)

    def close(self) -> None:
        """Count the last bin."""
        if self._inside.open is not None:
            (cells_V, _), sums = self._inside.open
            self._take(cells_V, sums)

    def _take(self, cells_V: NDArray[Any], sums: tuple[NDArray[Any], ...]) -> None:
        _, promised_V, came_V = sums
        np.add.at(self.gap_S, cells_V.astype(np.intp), np.abs(promised_V - came_V))
        if len(self._total_S) == 1 and len(cells_V):
            self.columns.append(sums)


class RankedBySegment(NamedTuple):
    """What is read from rows in the order of their scores."""

    auc_S: Floats
    """NaN where it is not defined."""
    ece_S: Floats
    """NaN without rows."""
    bins: EqualMass


def ranked(
    population: Population, column: int | None, total_S: NDArray[Any], bins: int = 20
) -> RankedBySegment:
    """AUC and calibration of each value of a segment column, or of all rows, from one sort."""
    areas, equal_mass = Areas(), EqualMass(total_S, bins)
    auc_S = np.full(len(total_S), np.nan)
    for ties in ties_of(population, Cells.of(population, column, grouped=False)):
        areas.add(ties).into(auc_S)
        scores_V = population.scores(ties.codes_V)
        equal_mass.add(ties, sigmoid(scores_V) if population.logits else scores_V)
    areas.close().into(auc_S)
    equal_mass.close()
    ece_S = equal_mass.gap_S / np.where(total_S > 0, total_S, np.nan)
    return RankedBySegment(auc_S, ece_S, equal_mass)
