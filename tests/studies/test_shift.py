"""Shift of scores, against numpy on whole columns."""

from __future__ import annotations

import numpy as np
import pytest

from recmtl.metrics.spool import Spool
from recmtl.studies.resampling import Resamples
from recmtl.studies.shift import QUANTILES, ScoreShift

ROWS, UNITS = 500, 20


def filled(outputs: int) -> tuple[ScoreShift, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    rows = {
        "first": rng.random((ROWS, outputs)).astype(np.float32),
        "second": rng.random((ROWS, outputs)).astype(np.float32),
        "weight": np.where(rng.random(ROWS) < 0.1, 0.0, rng.random(ROWS)).astype(np.float32),
        "unit": rng.integers(0, UNITS, ROWS),
        "segment": rng.integers(0, 3, ROWS),
    }
    if outputs > 1:
        for name in ("first", "second"):
            rows[name] /= rows[name].sum(axis=1, keepdims=True)
    shift = ScoreShift(ROWS, outputs, {"device": 4}, UNITS, spool=Spool(memory=0), memory=1 << 10)
    for start in range(0, ROWS, 130):
        part = slice(start, start + 130)
        shift.add(
            rows["first"][part],
            rows["second"][part],
            rows["weight"][part],
            rows["unit"][part],
            {"device": rows["segment"][part]},
        )
    return shift, rows


@pytest.mark.parametrize("outputs", [1, 3])
def test_means_are_weighted_means_of_the_rows_drawn(outputs: int) -> None:
    shift, rows = filled(outputs)
    resamples = Resamples(UNITS, 6, seed=3)
    times = [np.ones(UNITS), *resamples]
    for column, values in (("", [None]), ("device", range(4))):
        found = shift.means(resamples, column)
        assert len(found) == len(values)
        for value, means in zip(values, found, strict=True):
            seen = np.ones(ROWS, bool) if value is None else rows["segment"] == value
            for o, pair in enumerate(means):
                for name, mean_R in zip(("first", "second"), pair, strict=True):
                    for count, mean in zip(times, mean_R, strict=True):
                        weight = seen * rows["weight"].astype(np.float64) * count[rows["unit"]]
                        if not weight.sum():
                            assert np.isnan(mean)  # no row has the last value
                            continue
                        expected = np.average(rows[name][:, o].astype(np.float64), weights=weight)
                        assert mean == pytest.approx(expected, rel=1e-9)


def test_the_distribution_is_that_of_sorted_differences() -> None:
    shift, rows = filled(1)
    kept = rows["weight"] > 0
    first, second = (rows[name][kept, 0].astype(np.float64) for name in ("first", "second"))
    change = np.sort((second - first).astype(np.float32))
    found = shift.moves()
    assert found["rows"] == len(change) < ROWS
    assert found["mean_absolute"] == pytest.approx(np.abs(change).mean(), rel=1e-6)
    assert found["up"] == pytest.approx((change > 1e-6).mean())
    assert found["down"] == pytest.approx((change < -1e-6).mean())
    assert (found["least"], found["most"]) == (change[0], change[-1])
    for q in QUANTILES:
        assert found["quantiles"][f"{q:g}"] == change[round(q * (len(change) - 1))]
    low, high = (found["quantiles"][key] for key in ("0.01", "0.99"))
    assert sum(found["histogram"]["rows"]) == ((change >= low) & (change <= high)).sum()
    weight = rows["weight"][kept].astype(np.float64)
    cov = np.cov(first, second, aweights=weight)
    assert shift.correlation == pytest.approx(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))


def test_of_classes_it_is_half_of_the_sum_of_the_differences() -> None:
    shift, rows = filled(3)
    kept = rows["weight"] > 0
    gap = np.abs(rows["second"][kept].astype(np.float64) - rows["first"][kept]).sum(axis=1) / 2
    found = shift.moves()
    assert found["mean_absolute"] == pytest.approx(gap.mean(), rel=1e-6)
    assert found["down"] == 0
    assert shift.correlation is None


def test_without_rows_there_is_nothing_to_say() -> None:
    shift = ScoreShift(0, 1, {}, 5, spool=Spool(), memory=None)
    assert shift.moves() == {"rows": 0}
    assert shift.correlation is None
    (((first, second),),) = shift.means(Resamples(5, 3, seed=0))
    assert np.isnan(first).all()
    assert np.isnan(second).all()
