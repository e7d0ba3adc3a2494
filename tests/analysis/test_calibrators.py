"""Fits of calibrators, against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from recmtl.analysis.calibrators import fit_isotonic, fit_platt, pooled
from recmtl.metrics._columns import columns
from recmtl.metrics.population import Population, population_of
from recmtl.tasks import Calibrator


def sample(
    count: int, *, seed: int, weighted: bool, digits: int = 7
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Logits that are off by a scale and a shift, labels, and weights."""
    rng = np.random.default_rng(seed)
    z_N = rng.normal(-1.0, 2.0, count).round(digits).astype(np.float32)
    p_N = 1 / (1 + np.exp(-(0.6 * z_N - 0.8)))
    label_N = (rng.random(count) < p_N).astype(np.float32)
    weight_N = rng.uniform(0.2, 5.0, count).astype(np.float32) if weighted else None
    return z_N, label_N, weight_N


def as_population(
    z_N: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray | None, memory: int | None = None
) -> Population:
    rows = columns(z_N, label_N, weight_N, probs=False)
    return replace(population_of(rows, logits=True), memory=memory)


def applied(calibrator: Calibrator | None, z_N: np.ndarray) -> np.ndarray:
    assert calibrator is not None
    return calibrator(torch.from_numpy(z_N.astype(np.float64))).sigmoid().numpy()


@pytest.mark.parametrize("weighted", [False, True])
def test_platts_line_is_scikit_learns(*, weighted: bool) -> None:
    z_N, label_N, weight_N = sample(4000, seed=0, weighted=weighted)
    found = applied(fit_platt(as_population(z_N, label_N, weight_N)), z_N)
    weights = None if weight_N is None else weight_N.astype(np.float64)
    theirs = _SigmoidCalibration().fit(z_N.astype(np.float64), label_N, weights)
    np.testing.assert_allclose(found, theirs.predict(z_N.astype(np.float64)), atol=2e-4)


def test_platts_line_is_where_the_gradient_is_zero() -> None:
    z_N, label_N, weight_N = sample(3000, seed=1, weighted=True)
    assert weight_N is not None
    prob_N = applied(fit_platt(as_population(z_N, label_N, weight_N)), z_N)
    positives, negatives = weight_N[label_N == 1].sum(), weight_N[label_N == 0].sum()
    target_N = np.where(label_N == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    residual_N = weight_N * (prob_N - target_N)
    assert abs(residual_N.sum()) < 1e-3 * weight_N.sum() ** 0.5
    assert abs((residual_N * z_N).sum()) < 1e-3 * weight_N.sum() ** 0.5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_platts_line_does_not_depend_on_the_scale_of_logits(scale: float) -> None:
    z_N, label_N, _ = sample(3000, seed=2, weighted=False)
    once = applied(fit_platt(as_population(z_N, label_N, None)), z_N)
    scaled = (z_N * scale).astype(np.float32)
    again = applied(fit_platt(as_population(scaled, label_N, None)), scaled)
    np.testing.assert_allclose(once, again, atol=1e-5)


def test_classes_that_a_threshold_tells_apart_have_a_finite_line() -> None:
    z_N = np.linspace(-1, 1, 200, dtype=np.float32)
    found = fit_platt(as_population(z_N, (z_N > 0).astype(np.float32), None))
    assert found is not None
    assert 1 < found.below < 1e4


def test_a_line_that_falls_is_none() -> None:
    z_N, label_N, _ = sample(3000, seed=3, weighted=False)
    assert fit_platt(as_population(-z_N, label_N, None)) is None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("digits", [1, 7])
def test_pools_are_those_of_scikit_learn(*, weighted: bool, digits: int) -> None:
    z_N, label_N, weight_N = sample(5000, seed=4, weighted=weighted, digits=digits)
    pools = pooled(as_population(z_N, label_N, weight_N))
    theirs = IsotonicRegression().fit(z_N.astype(np.float64), label_N, weight_N)
    values = theirs.predict(np.sort(z_N.astype(np.float64)))
    share_K = pools.positives_K / pools.weights_K
    np.testing.assert_allclose(share_K, np.unique(values.round(9)), atol=1e-6)
    assert len(share_K) > 10


def test_pools_do_not_depend_on_memory_or_on_the_order_of_rows() -> None:
    z_N, label_N, _ = sample(300_000, seed=5, weighted=False)
    order = np.random.default_rng(0).permutation(len(z_N))
    once = pooled(as_population(z_N, label_N, None))
    again = pooled(as_population(z_N[order], label_N[order], None, memory=1 << 20))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_isotonic_line_rises_gently_and_goes_through_the_middle_of_its_pools(
    *, weighted: bool
) -> None:
    z_N, label_N, weight_N = sample(5000, seed=6, weighted=weighted)
    found = fit_isotonic(as_population(z_N, label_N, weight_N))
    assert found is not None
    slopes = np.array(found.slopes)
    assert (slopes > 0).all()
    assert slopes.max() <= 20 * (1 + 1e-9)
    # Pools are rows next to each other: the shares at the knots, in turn, use up all rows.
    order = np.argsort(z_N, kind="stable")
    weights = np.ones(len(z_N)) if weight_N is None else weight_N[order].astype(np.float64)
    mass_N, came_N = weights.cumsum(), (weights * label_N[order]).cumsum()
    at_N, start = (weights * z_N[order]).cumsum(), (0.0, 0.0, 0.0)
    for at, value in zip(found.at, found.values, strict=True):
        share = 1 / (1 + np.exp(-value))
        mass = mass_N - start[0]
        fits = np.flatnonzero(
            (mass > 0)
            & (np.abs((came_N - start[1]) - share * mass) < 1e-6 * mass_N[-1])
            & (np.abs((at_N - start[2]) - at * mass) < 1e-6 * mass_N[-1])
        )
        assert len(fits)
        last = fits[0]
        start = (mass_N[last], came_N[last], at_N[last])
    assert start[0] == pytest.approx(mass_N[-1])


def test_the_isotonic_line_finds_the_truth() -> None:
    z_N, label_N, _ = sample(200_000, seed=7, weighted=False)
    grid = np.linspace(-4, 2, 50, dtype=np.float32)
    found = applied(fit_isotonic(as_population(z_N, label_N, None)), grid)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-(0.6 * grid - 0.8))), atol=0.02)


def test_the_isotonic_line_of_one_prediction_is_its_rate() -> None:
    label_N = np.array([1, 0, 0, 0], np.float32)
    found = applied(
        fit_isotonic(as_population(np.full(4, 2.5, np.float32), label_N, None)), 2.5 * np.ones(1)
    )
    np.testing.assert_allclose(found, 0.25)


def test_classes_that_a_threshold_tells_apart_become_one_pool() -> None:
    z_N = np.linspace(-1, 1, 200, dtype=np.float32)
    found = fit_isotonic(as_population(z_N, (z_N > 0).astype(np.float32), None))
    assert found is not None
    assert found.at == pytest.approx((0.0,))
    assert found.values == pytest.approx((0.0,))
