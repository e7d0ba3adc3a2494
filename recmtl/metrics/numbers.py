"""Predicted numbers against those that came, in bins, for a plot.

Shape letters: N rows, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics._columns import Floats
from recmtl.metrics.population import Population, float32_codes, float32_values
from recmtl.metrics.sorting import Sorter

__all__ = ["NumberBins", "number_bins"]

_HALF = np.uint64(32)
_LABEL_AND_WEIGHT = np.dtype([("label", np.float32), ("weight", np.float64)])


class NumberBins(NamedTuple):
    """A regression in bins of equally many rows, in the order of its predictions."""

    mean_predictions: Floats
    mean_labels: Floats
    low: Floats
    """8 of 10 labels of the bin lie between it and `high` (weights aside)."""
    high: Floats


def number_bins(population: Population, *, bins: int = 20) -> NumberBins:
    """A regression in up to `bins` bins of equally many rows; all in float32.

    Rows of equal predictions stay in their order.

    Example:
        >>> from recmtl.metrics._columns import columns
        >>> from recmtl.metrics.population import population_of
        >>> rows = columns([1.0, 2, 3, 4], [1, 3, 3, 5], None, binary=False)
        >>> found = number_bins(population_of(rows, kind="regression"), bins=2)
        >>> found.mean_predictions.tolist(), found.mean_labels.tolist()
        ([1.5, 3.5], [2.0, 4.0])
    """
    memory = None if population.memory is None else population.memory // 2
    by_prediction = Sorter(population.num_rows, np.uint64, _LABEL_AND_WEIGHT, memory=memory)
    count = 0
    for rows in population.blocks():
        number_N = np.arange(count, count + len(rows.labels), dtype=np.uint64)
        code_N = float32_codes(rows.predictions.astype(np.float32)).astype(np.uint64)
        beside = np.empty(len(rows.labels), _LABEL_AND_WEIGHT)
        beside["label"] = rows.labels
        beside["weight"] = 1.0 if rows.weights is None else rows.weights
        by_prediction.add(code_N << _HALF | number_N, beside)
        count += len(rows.labels)
    num_bins = min(bins, count)
    sizes_K = np.full(num_bins, count // max(num_bins, 1))
    sizes_K[: count - int(sizes_K.sum())] += 1
    ends_K = np.cumsum(sizes_K)
    sums_3K = np.zeros((3, num_bins))
    by_label = Sorter(count, np.uint64, memory=memory)
    done = 0
    for block in by_prediction.blocks():
        assert block.values is not None
        bin_N = np.searchsorted(ends_K, np.arange(done, done + len(block.keys)), side="right")
        weight_N, label_N = block.values["weight"], block.values["label"]
        prediction_N = float32_values((block.keys >> _HALF).astype(np.uint32))
        for k, value_N in enumerate((np.ones(len(weight_N)), prediction_N, label_N)):
            sums_3K[k] += np.bincount(bin_N, weight_N * value_N, num_bins)
        by_label.add(bin_N.astype(np.uint64) << _HALF | float32_codes(label_N))
        done += len(block.keys)
    low, high = _quantiles(by_label, ends_K - sizes_K, sizes_K, (0.1, 0.9))
    return NumberBins(sums_3K[1] / sums_3K[0], sums_3K[2] / sums_3K[0], low, high)


def _quantiles(
    sorter: Sorter, starts_K: NDArray[np.intp], sizes_K: NDArray[np.intp], shares: Sequence[float]
) -> list[Floats]:
    """Quantiles of each bin's labels, which stand one bin after the other."""
    places = [starts_K + share * (sizes_K - 1) for share in shares]
    below, above = np.floor(places).astype(np.int64), np.ceil(places).astype(np.int64)
    wanted = np.unique(np.concatenate([below, above], axis=None))
    found = np.empty(len(wanted))
    done = 0
    for block in sorter.blocks():
        here = slice(*np.searchsorted(wanted, [done, done + len(block.keys)]))
        code_N = block.keys[wanted[here] - done] & np.uint64(2**32 - 1)
        found[here] = float32_values(code_N.astype(np.uint32))
        done += len(block.keys)
    low, high = (found[np.searchsorted(wanted, place)] for place in (below, above))
    return list(low + (high - low) * (places - below))
