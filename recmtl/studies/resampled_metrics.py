"""Every metric of a population in each resample, for all rows or for each value of a segment.

Shape letters: N rows, S values of a segment column, U units, R resamples, C classes, K bins,
X sums, G groups (D of them with both classes).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics._bins import ranked
from recmtl.metrics.calibration import judged
from recmtl.metrics.population import Population, Rows
from recmtl.metrics.ranking import areas_of
from recmtl.metrics.sorting import Sorter
from recmtl.studies.resampling import ResampledArea, Resamples, ratio, resampled_sums
from recmtl.studies.units import Units

__all__ = ["MOST_VALUES", "Resampled", "resampled_metrics"]

MOST_VALUES = 64
"""Of a segment column: so many sums of every unit are held."""
_BINS = 20
_CODE_BITS, _LABEL_BITS = 32, 1

Floats = NDArray[np.float64]
Resampled = dict[str, Floats]
"""Metric -> its value in each resample; NaN where the rows that were drawn do not define it."""


def resampled_metrics(
    population: Population, column: int | None, units: Units, resamples: Resamples
) -> list[Resampled]:
    """Resampled metrics of each value of a segment column, or of all rows.

    Metrics are those of `metrics_by_segment`. Bins of `ece` are those of all rows: what a resample
    changes is how often each row counts.

    Args:
        population: the rows; its last segment column is each row's unit.
        column: segment column, None for all rows together; of at most `MOST_VALUES` values.
        units: which groups are drawn together.
        resamples: the draws of the units.
    """
    make = {"binary": _binary, "regression": _regression, "multiclass": _multiclass}
    return make[population.kind](_Columns(population, column, units), resamples)


class _Columns:
    """A population, cut by a segment column and by units."""

    def __init__(self, population: Population, column: int | None, units: Units) -> None:
        self.population, self.column, self.units = population, column, units
        self.size = 1 if column is None else population.segments[column]

    def segment(self, rows: Rows) -> NDArray[np.int64]:
        """Number of each row's segment value."""
        if self.column is None:
            return np.zeros(len(rows.labels), np.int64)
        return rows.segments[self.column].astype(np.int64)

    def blocks(self) -> Iterator[tuple[Rows, NDArray[np.int64], Floats]]:
        """Rows, the number ``segment * U + unit`` of each, and their weights."""
        for rows in self.population.blocks():
            weight_N = np.ones(len(rows.labels)) if rows.weights is None else rows.weights
            cell_N = self.segment(rows) * self.units.count + rows.segments[-1]
            yield rows, cell_N, weight_N.astype(np.float64)

    def resampled(
        self, sums_SUX: NDArray[np.float64], resamples: Resamples
    ) -> Iterator[tuple[Floats, ...]]:
        """Of each segment value, the resampled sums one after the other, each ``[R]``."""
        for sums_UX in sums_SUX:
            yield tuple(resampled_sums(sums_UX, resamples)[1].T)


def _binary(columns: _Columns, resamples: Resamples) -> list[Resampled]:
    size, count = columns.size, columns.units.count
    total_S = np.zeros(size, np.int64 if not columns.population.is_weighted else np.float64)
    for _, cell_N, weight_N in columns.blocks():
        weight = weight_N if columns.population.is_weighted else None
        total_S += np.bincount(cell_N // count, weight, size).astype(total_S.dtype)
    bins = ranked(columns.population, columns.column, total_S, _BINS).bins
    starts, number = np.empty(0, np.uint64), np.empty(0, np.int64)
    if bins.starts:
        starts, number = map(np.concatenate, zip(*bins.starts, strict=True))
    sums_XC = np.zeros((4, size * count))
    gap_SUK = np.zeros(size * count * _BINS)
    order = _Order(columns)
    for rows, cell_N, weight_N in columns.blocks():
        assert rows.order is not None
        said = judged(rows, logits=columns.population.logits)
        came_N = said.labels * weight_N
        for sums_C, value_N in zip(
            sums_XC,
            (weight_N, came_N, said.losses * weight_N, said.probs * weight_N),
            strict=True,
        ):
            sums_C += np.bincount(cell_N, value_N, size * count)
        key_N = (cell_N // count).astype(np.uint64) << np.uint64(32) | rows.order
        bin_N = number[np.searchsorted(starts, key_N, side="right") - 1] % _BINS
        gap_SUK += np.bincount(
            cell_N * _BINS + bin_N, said.probs * weight_N - came_N, size * count * _BINS
        )
        order.add(rows, cell_N)
    found: list[Resampled] = []
    sums_SUX = sums_XC.T.reshape(size, count, 4)
    gaps = columns.resampled(gap_SUK.reshape(size, count, _BINS), resamples)
    grouped = columns.resampled(_grouped(columns), resamples)
    for (weight, came, loss, promised), gap_K, (won, of) in zip(
        columns.resampled(sums_SUX, resamples), gaps, grouped, strict=True
    ):
        share = ratio(came, weight)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -(share * np.log(share) + (1 - share) * np.log1p(-share))
        found.append(
            {
                "gauc": ratio(won, of),
                "logloss": ratio(loss, weight),
                "ne": ratio(ratio(loss, weight), np.nan_to_num(entropy)),
                "pcoc": ratio(promised, came),
                "ece": ratio(np.abs(np.stack(gap_K)).sum(axis=0), weight),
            }
        )
    for resampled, auc_R in zip(found, order.areas(resamples), strict=True):
        resampled["auc"] = auc_R
    return found


def _grouped(columns: _Columns) -> Floats:
    """Weighted AUCs of the groups of each unit and their weights, ``[S, U, 2]``; 0 if undefined."""
    sums_SUX = np.zeros((columns.size, columns.units.count, 2))
    if not columns.population.num_groups:
        return sums_SUX
    for segment_G, group_G, areas in areas_of(columns.population, columns.column):
        is_defined_G = areas.is_defined_G
        where = (segment_G[is_defined_G], columns.units(group_G[is_defined_G]))
        weight_D = areas.weight_G[is_defined_G]
        np.add.at(sums_SUX[:, :, 0], where, weight_D * areas.auc_G[is_defined_G])
        np.add.at(sums_SUX[:, :, 1], where, weight_D)
    return sums_SUX


class _Order:
    """Rows by segment value, then by score, negatives first; sorted within the memory allowed."""

    def __init__(self, columns: _Columns) -> None:
        self._columns = columns
        population = columns.population
        self._unit_bits = (columns.units.count - 1).bit_length()
        self._sorter = Sorter(
            population.num_rows,
            np.uint64,
            np.float64 if population.is_weighted else None,
            memory=population.memory,
        )

    def add(self, rows: Rows, cell_N: NDArray[np.int64]) -> None:
        """Take rows in; a key is the segment value, the score, the label, and the unit."""
        assert rows.order is not None
        segment_N, unit_N = np.divmod(
            cell_N.astype(np.uint64), np.uint64(self._columns.units.count)
        )
        key_N = segment_N << np.uint64(_CODE_BITS) | rows.order
        key_N = key_N << np.uint64(_LABEL_BITS) | (rows.labels == 1).astype(np.uint64)
        key_N = key_N << np.uint64(self._unit_bits) | unit_N
        self._sorter.add(key_N, rows.weights)

    def areas(self, resamples: Resamples) -> list[Floats]:
        """AUC of each resample, for each segment value."""
        is_weighted = self._columns.population.is_weighted
        areas = [
            ResampledArea(resamples, is_weighted=is_weighted) for _ in range(self._columns.size)
        ]
        before: np.uint64 | None = None
        for block in self._sorter.blocks():
            unit_N = block.keys & np.uint64((1 << self._unit_bits) - 1)
            scored_N = block.keys >> np.uint64(self._unit_bits)
            is_positive_N = (scored_N & np.uint64(1)).astype(np.bool_)
            score_N = scored_N >> np.uint64(_LABEL_BITS)
            is_new_N = np.ones(len(score_N), np.bool_)
            is_new_N[1:] = score_N[1:] != score_N[:-1]
            is_new_N[0] = score_N[0] != before
            before = score_N[-1]
            segment_N = (score_N >> np.uint64(_CODE_BITS)).astype(np.int64)
            ends = np.searchsorted(segment_N, np.arange(len(areas) + 1))
            for s, area in enumerate(areas):
                part = slice(ends[s], ends[s + 1])
                area.add(
                    unit_N[part].astype(np.intp),
                    is_positive_N[part],
                    is_new_N[part],
                    None if block.values is None else block.values[part],
                )
        return [area.result()[1] for area in areas]


def _regression(columns: _Columns, resamples: Resamples) -> list[Resampled]:
    size, count = columns.size, columns.units.count
    sums_XC = np.zeros((3, size * count))
    for rows, cell_N, weight_N in columns.blocks():
        error_N = np.abs(rows.predictions.astype(np.float64) - rows.labels)
        sums_XC[0] += np.bincount(cell_N, weight_N, size * count)
        sums_XC[1] += np.bincount(cell_N, weight_N * error_N**2, size * count)
        sums_XC[2] += np.bincount(cell_N, weight_N * error_N, size * count)
    return [
        {"rmse": np.sqrt(ratio(squares, weight)), "mae": ratio(errors, weight)}
        for weight, squares, errors in columns.resampled(
            sums_XC.T.reshape(size, count, 3), resamples
        )
    ]


def _multiclass(columns: _Columns, resamples: Resamples) -> list[Resampled]:
    size, count = columns.size, columns.units.count
    classes = columns.population.classes
    sums_XC = np.zeros((2 + classes, size * count))
    for rows, cell_N, weight_N in columns.blocks():
        logits_NC = rows.predictions.astype(np.float64)
        label_N = rows.labels.astype(np.int64)
        own_N = logits_NC[np.arange(len(label_N)), label_N]
        loss_N = np.logaddexp.reduce(logits_NC, axis=1) - own_N
        is_right_N = logits_NC.argmax(axis=1) == label_N
        sums_XC[0] += np.bincount(cell_N, weight_N * loss_N, size * count)
        sums_XC[1] += np.bincount(cell_N, weight_N * is_right_N, size * count)
        for c in range(classes):
            sums_XC[2 + c] += np.bincount(cell_N, weight_N * (label_N == c), size * count)
    found: list[Resampled] = []
    for loss, right, *of_classes in columns.resampled(
        sums_XC.T.reshape(size, count, 2 + classes), resamples
    ):
        weight_RC = np.stack(of_classes, axis=1)
        weight = weight_RC.sum(axis=1)
        share_RC = weight_RC / np.where(weight > 0, weight, 1.0)[:, None]
        entropy = -(share_RC * np.log(np.where(share_RC > 0, share_RC, 1.0))).sum(axis=1)
        logloss = ratio(loss, weight)
        found.append(
            {"logloss": logloss, "ne": ratio(logloss, entropy), "accuracy": ratio(right, weight)}
        )
    return found
