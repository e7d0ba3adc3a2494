"""How well scores order positives above negatives.

Shape letters: N rows, V distinct scores, G groups (D of them with both classes), S values of a
segment column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recmtl.metrics._columns import Columns, Floats, columns
from recmtl.metrics._ties import Cells, Runs, Ties, before, ties_of
from recmtl.metrics.population import Codes, Population, population_of

__all__ = [
    "Areas",
    "GroupedAUC",
    "SegmentAreas",
    "areas_of",
    "auc",
    "gauc",
    "gauc_of",
    "group_codes",
    "numbered",
]


def auc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    r"""Area under the ROC curve: the chance that a positive scores above a negative.

    .. math::
        \frac{\sum_{i: y_i=1} \sum_{j: y_j=0} w_i w_j ([s_i > s_j] + \tfrac12 [s_i = s_j])}
        {\sum_{i: y_i=1} w_i \sum_{j: y_j=0} w_j}

    Exact, and a tie counts half; without weights the sums are integers.

    Args:
        scores: probabilities, logits or any other scores.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.

    Returns:
        The area, or None unless both classes are there.

    Example:
        >>> auc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
        0.875
        >>> auc([0.1, 0.2], [0, 0]) is None
        True
    """
    population = population_of(columns(scores, labels, weights))
    areas = Areas()
    found = np.full(1, np.nan)
    for ties in ties_of(population, Cells.of(population, None, grouped=False)):
        areas.add(ties).into(found)
    areas.close().into(found)
    return None if np.isnan(found[0]) else float(found[0])


class CellAreas(NamedTuple):
    """The pairs that cells won."""

    cells_G: NDArray[np.uint64]
    positives_G: NDArray[Any]
    negatives_G: NDArray[Any]
    twice_area_G: NDArray[Any]

    @property
    def is_defined_G(self) -> NDArray[np.bool_]:
        """Whether a cell has both classes."""
        defined_G: NDArray[np.bool_] = (self.positives_G > 0) & (self.negatives_G > 0)
        return defined_G

    @property
    def weight_G(self) -> NDArray[Any]:
        """Weight of a cell's rows."""
        total_G: NDArray[Any] = self.positives_G + self.negatives_G
        return total_G

    @property
    def auc_G(self) -> Floats:
        """AUC of each cell, NaN where it is not defined."""
        pairs_G = np.where(self.is_defined_G, 2 * self.positives_G * self.negatives_G, np.nan)
        areas: Floats = self.twice_area_G / pairs_G
        return areas

    def into(self, auc_S: Floats) -> None:
        """Write each cell's AUC where its number says."""
        auc_S[self.cells_G] = self.auc_G


class Areas:
    """Areas under the ROC curves of cells, from ties in order; a cell comes when it is complete."""

    def __init__(self) -> None:
        """Start with no cell."""
        self._runs = Runs()

    def add(self, ties: Ties) -> CellAreas:
        """The cells that are complete by now."""
        below_V = before(ties.negatives_V, ties.cells_V, self._runs, 1)
        twice_area_V = ties.positives_V * (2 * below_V + ties.negatives_V)
        values = (ties.positives_V, ties.negatives_V, twice_area_V)
        (cells_G,), sums = self._runs.add((ties.cells_V,), values)
        return CellAreas(cells_G, *sums)

    def close(self) -> CellAreas:
        """The last cell, where there is one."""
        if self._runs.open is None:
            nothing = np.empty(0, np.int64)
            return CellAreas(nothing.astype(np.uint64), nothing, nothing, nothing)
        (cells_G,), sums = self._runs.open
        return CellAreas(cells_G, *sums)


class GroupedAUC(NamedTuple):
    """The mean of the groups' AUCs, and how many groups it speaks for."""

    value: float | None
    """None if no group has both classes."""
    groups: int
    """Groups with both classes: those that are averaged."""
    undefined_groups: int
    """Groups with one class: they have no AUC."""


def gauc(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupedAUC:
    """AUC within each group (a user, a request), averaged with the groups' weights.

    A group weighs as much as its rows: their number, or the sum of their weights. Groups without
    both classes are counted, not averaged. Missing keys (None, NaN) are one group of their own.

    Args:
        scores: probabilities, logits or any other scores.
        labels: 0 or 1.
        groups: key of each row: integers, strings or any other values; integers are fastest.
        weights: sample weights; rows of weight 0 do not count.

    Returns:
        The mean and the number of groups with and without an AUC.

    Example:
        >>> gauc([0.1, 0.9, 0.5, 0.3, 0.2], [0, 1, 1, 0, 1], ["a", "a", "b", "b", "b"])
        GroupedAUC(value=0.7, groups=2, undefined_groups=0)
    """
    rows = columns(scores, labels, weights)
    return gauc_of(population_of(rows, groups=numbered(rows, groups)), None)[0]


class SegmentAreas(NamedTuple):
    """Areas of the groups of segment values, where they are defined or not."""

    segments_G: NDArray[np.intp]
    groups_G: Codes
    areas: CellAreas


def areas_of(population: Population, column: int | None) -> Iterator[SegmentAreas]:
    """The area of every group within every value of a segment column, or within all rows."""
    cells = Cells.of(population, column, grouped=True)
    shift, mask = np.uint64(cells.group_bits), np.uint64((1 << cells.group_bits) - 1)

    def told(areas: CellAreas) -> SegmentAreas:
        group_G = (areas.cells_G & mask).astype(np.uint32)
        return SegmentAreas((areas.cells_G >> shift).astype(np.intp), group_G, areas)

    found = Areas()
    for ties in ties_of(population, cells):
        yield told(found.add(ties))
    yield told(found.close())


def gauc_of(population: Population, column: int | None) -> list[GroupedAUC]:
    """GAUC of each value of a segment column, or of all rows."""
    size = 1 if column is None else population.segments[column]
    if not population.num_groups:
        return [GroupedAUC(None, 0, 0)] * size
    # Wider than what comes out, so that it does not matter in which order the groups are.
    total_S, weight_S = np.zeros((2, size), np.longdouble)
    count_S, defined_S = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for segment_G, _, areas in areas_of(population, column):
        np.add.at(count_S, segment_G, 1)
        defined_G = areas.is_defined_G
        segment_D = segment_G[defined_G]
        weight_D = areas.weight_G[defined_G].astype(np.longdouble)
        np.add.at(defined_S, segment_D, 1)
        np.add.at(weight_S, segment_D, weight_D)
        np.add.at(total_S, segment_D, weight_D * areas.auc_G[defined_G])
    value_S = total_S / np.where(defined_S > 0, weight_S, 1)
    return [
        GroupedAUC(float(value) if defined else None, defined, count - defined)
        for value, defined, count in zip(value_S, defined_S.tolist(), count_S.tolist(), strict=True)
    ]


def numbered(rows: Columns, groups: ArrayLike) -> Codes:
    """A number from 0 on for each group, beside the checked rows that are kept."""
    key_N = group_codes(groups)
    shape = rows.labels.shape if rows.kept is None else rows.kept.shape
    if key_N.shape != shape:
        raise ValueError(
            f"`groups` must be one column with a key for each row: expected shape {shape}, "
            f"got {key_N.shape}."
        )
    if rows.kept is not None:
        key_N = key_N[rows.kept]
    if key_N.dtype.kind in "iu" and len(key_N):
        low, high = int(key_N.min()), int(key_N.max())
        if high - low < 2**31:
            narrow_N: Codes = (key_N - key_N.dtype.type(low)).astype(np.uint32)
            return narrow_N
    return np.unique(key_N, return_inverse=True)[1].astype(np.uint32)


def group_codes(groups: ArrayLike) -> NDArray[Any]:
    """Keys that sort quickly: numbers and times as they are, a number for each string or object.

    `gauc` does it for itself; do it once where many tasks and segments share a column of strings.

    Args:
        groups: key of each row.

    Returns:
        One key for each row, equal where the keys given are equal.

    Example:
        >>> group_codes(["b", "a", "b"])
        array([0, 1, 0])
    """
    key_N = np.asarray(groups)
    if key_N.dtype.kind in "biufmM":
        return key_N
    keys = key_N.tolist()
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.fromiter(map(codes.__getitem__, keys), dtype=np.int64, count=len(keys))
