from __future__ import annotations

import numpy as np
import pytest

from recmtl.metrics import ece, reliability_bins, score_histogram


def made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    probs = rng.beta(1, 5, 1000)
    return probs, rng.random(1000) < probs, rng.gamma(2, 1, 1000)


def test_reliability_of_distinct_scores_is_that_of_equal_slices() -> None:
    probs, labels, _ = made()
    order = np.argsort(probs)
    curve = reliability_bins(probs, labels, bins=10)
    assert curve.weights.tolist() == [100.0] * 10
    np.testing.assert_allclose(curve.mean_probs, probs[order].reshape(10, 100).mean(axis=1))
    np.testing.assert_allclose(curve.base_rates, labels[order].reshape(10, 100).mean(axis=1))


def test_reliability_sums_to_the_whole() -> None:
    probs, labels, weights = made()
    weights[::7] = 0
    curve = reliability_bins(probs.round(1), labels, weights)
    assert len(curve.weights) <= 11  # as many as there are distinct scores
    assert (curve.weights > 0).all()
    assert curve.weights.sum() == pytest.approx(weights.sum())
    assert curve.weights @ curve.mean_probs == pytest.approx(weights @ probs.round(1))
    assert curve.weights @ curve.base_rates == pytest.approx(weights @ labels)


def test_ece_is_read_off_the_curve() -> None:
    probs, labels, weights = made()
    curve = reliability_bins(probs, labels, weights)
    gaps = np.abs(curve.mean_probs - curve.base_rates)
    expected = curve.weights @ gaps / curve.weights.sum()
    assert ece(probs, labels, weights) == pytest.approx(expected)


def test_reliability_of_nothing_is_empty() -> None:
    assert [len(column) for column in reliability_bins([], [])] == [0, 0, 0]


def test_histogram_counts_each_class() -> None:
    probs, labels, weights = made()
    curve = score_histogram(probs, labels, weights, bins=8, limits=(0.0, 0.5))
    assert curve.edges.tolist() == pytest.approx(np.linspace(0, 0.5, 9).tolist())
    for k in range(8):
        low, high = curve.edges[k], curve.edges[k + 1] if k < 7 else np.inf  # outside: last bin
        inside = (probs >= low) & (probs < high)
        assert curve.positives[k] == pytest.approx(weights[inside & labels].sum())
        assert curve.negatives[k] == pytest.approx(weights[inside & ~labels].sum())


def test_histogram_spans_the_scores_by_default() -> None:
    curve = score_histogram(np.float32([-3.0, 5.0, 1.0]), [0, 1, 1], bins=4)
    assert curve.edges.tolist() == [-3.0, -1.0, 1.0, 3.0, 5.0]
    assert curve.positives.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert curve.negatives.tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("scores", [[], [0.5, 0.5]])
def test_histogram_without_a_span_still_adds_up(scores: list[float]) -> None:
    curve = score_histogram(scores, [1] * len(scores))
    assert curve.positives.sum() == len(scores)
    assert np.isfinite(curve.edges).all()
