"""All metrics of a population, over all its rows and for each value of its segment columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recmtl.metrics._bins import EqualMass, ranked
from recmtl.metrics.calibration import BinarySums, judged
from recmtl.metrics.curves import Reliability, reliability_of
from recmtl.metrics.multiclass import ClassSums
from recmtl.metrics.population import Codes, Population, Rows
from recmtl.metrics.ranking import gauc_of
from recmtl.metrics.regression import ErrorSums

__all__ = ["Metrics", "MetricsBySegment", "metrics_by_segment"]

Metrics = dict[str, float | int | None]


class MetricsBySegment(NamedTuple):
    """What is known of a population."""

    whole: Metrics
    """Over all rows."""
    columns: tuple[list[Metrics], ...]
    """For each segment column, for each of its values."""
    reliability: Reliability | None = None
    """Of a binary task, in 20 bins."""


def metrics_by_segment(population: Population) -> MetricsBySegment:
    """Read the population a few times, and hold no more than its `memory` and some blocks of it."""
    make = {"binary": _binary, "regression": _regression, "multiclass": _multiclass}
    return make[population.kind](population)


def _binary(population: Population) -> MetricsBySegment:
    sums = [BinarySums(size) for size in (1, *population.segments)]
    for rows in population.blocks():
        block = judged(rows, logits=population.logits)
        for which, codes in zip(sums, (None, *rows.segments), strict=True):
            which.add(block, codes)
    whole, bins = _binary_columns(population, None, sums[0])
    columns = [
        _binary_columns(population, column, which)[0] for column, which in enumerate(sums[1:])
    ]
    return MetricsBySegment(whole[0], tuple(columns), reliability_of(bins))


def _binary_columns(
    population: Population, column: int | None, sums: BinarySums
) -> tuple[list[Metrics], EqualMass]:
    found = ranked(population, column, sums.total_S)
    grouped = gauc_of(population, column)
    aucs, eces = found.auc_S.tolist(), found.ece_S.tolist()
    return [
        {
            "n": int(sums.rows_S[s]),
            "positives": int(sums.positives_S[s]),
            "auc": None if np.isnan(aucs[s]) else aucs[s],
            "gauc": grouped[s].value,
            "gauc_groups": grouped[s].groups,
            "gauc_undefined_groups": grouped[s].undefined_groups,
            "logloss": sums.logloss(s),
            "ne": sums.ne(s),
            "pcoc": sums.pcoc(s),
            "ece": None if np.isnan(eces[s]) else eces[s],
        }
        for s in range(len(sums.rows_S))
    ], found.bins


def _regression(population: Population) -> MetricsBySegment:
    sums = [ErrorSums(size) for size in (1, *population.segments)]
    for rows in population.blocks():
        for which, codes in zip(sums, (None, *rows.segments), strict=True):
            which.add(rows, codes)
    found: list[list[Metrics]] = [
        [
            {"n": int(which.rows_S[s]), "rmse": which.rmse(s), "mae": which.mae(s)}
            for s in range(len(which.rows_S))
        ]
        for which in sums
    ]
    return MetricsBySegment(found[0][0], tuple(found[1:]))


def _multiclass(population: Population) -> MetricsBySegment:
    sums = [[ClassSums(population.classes) for _ in range(n)] for n in (1, *population.segments)]
    for rows in population.blocks():
        for which, codes in zip(sums, (None, *rows.segments), strict=True):
            for s, part in _split(rows, codes):
                which[s].add(part.predictions, part.labels, part.weights, logits=population.logits)
    found = [[each.metrics() for each in which] for which in sums]
    return MetricsBySegment(found[0][0], tuple(found[1:]))


def _split(rows: Rows, codes: Codes | None) -> Iterator[tuple[int, Rows]]:
    """The rows of each segment value that is there."""
    if codes is None:
        yield 0, rows
        return
    if not len(codes):
        return
    order = np.argsort(codes, kind="stable")
    values, starts = np.unique(codes[order], return_index=True)
    for value, index in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
        yield (
            value,
            Rows(
                rows.predictions[index],
                rows.labels[index],
                None if rows.weights is None else rows.weights[index],
            ),
        )
