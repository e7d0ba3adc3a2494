from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recmtl.metrics._columns import columns
from recmtl.metrics.numbers import number_bins
from recmtl.metrics.population import population_of


@pytest.mark.parametrize(("num_rows", "memory"), [(103, None), (30_000, 0)])
def test_a_regression_is_binned_as_by_slices(num_rows: int, memory: int | None) -> None:
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(size=(2, num_rows)).astype(np.float32)
    predictions[::3] = 0.5  # a tie keeps the order of its rows
    weights = rng.random(num_rows) + 1
    rows = columns(predictions, labels, weights, binary=False)
    found = number_bins(replace(population_of(rows, kind="regression"), memory=memory), bins=5)
    order = np.argsort(predictions, kind="stable")
    for k, part in enumerate(np.array_split(order, 5)):
        low, high = np.quantile(labels[part].astype(np.float64), [0.1, 0.9])
        assert found.low[k] == pytest.approx(low, rel=1e-12)
        assert found.high[k] == pytest.approx(high, rel=1e-12)
        for name, column in (("mean_predictions", predictions), ("mean_labels", labels)):
            mean = np.average(column[part].astype(np.float64), weights=weights[part])
            assert getattr(found, name)[k] == pytest.approx(mean, rel=1e-10)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_few_numbers_make_few_bins(num_rows: int) -> None:
    rows = columns(np.ones(num_rows), np.ones(num_rows), None, binary=False)
    found = number_bins(population_of(rows, kind="regression"))
    assert [column.tolist() for column in found] == [[1.0] * num_rows] * 4
