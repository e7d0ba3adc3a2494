from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from recmtl.metrics import ece, logloss, ne, pcoc
from tests.reference import ranking

ROW = st.tuples(
    st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9]),
    st.integers(0, 1),
    st.sampled_from([0.25, 1.0, 2.0]),
)


def made(num_rows: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 1.5, num_rows)
    labels = rng.random(num_rows) < 1 / (1 + np.exp(-logits))
    return logits, labels, rng.gamma(2, 1, num_rows)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logloss_is_that_of_scikit_learn(weighted: bool, dtype: type[np.floating]) -> None:
    logits, labels, weights = made()
    probs = sigmoid(logits).astype(dtype)
    used = weights if weighted else None
    expected = log_loss(labels, probs.astype(np.float64), sample_weight=used)
    assert logloss(probs, labels, used) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_are_clipped_by_their_dtype(dtype: type[np.floating]) -> None:
    found = logloss(np.array([0.0, 1.0], dtype=dtype), [1, 0])
    assert found == pytest.approx(-math.log(np.finfo(dtype).eps), rel=1e-6)
    assert logloss(np.array([0.0, 1.0], dtype=dtype), [0, 1]) < 2e-7


def test_logloss_of_logits_is_exact() -> None:
    logits, labels, weights = made(300)
    logits[:4] = [100.0, -100.0, 60.0, -60.0]
    expected = ranking.logloss(logits, labels, weights)
    assert logloss(logits, labels, weights, logits=True) == pytest.approx(expected, rel=1e-12)
    assert logloss([100.0], [1], logits=True) == pytest.approx(math.exp(-100), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_normalised_entropy_is_logloss_over_that_of_the_base_rate_pitfall_T33(
    weighted: bool,
) -> None:
    logits, labels, weights = made()
    used = weights if weighted else np.ones(len(labels))
    rate = float((used * labels).sum() / used.sum())
    constant = log_loss(labels, np.full(len(labels), rate), sample_weight=used)
    expected = log_loss(labels, sigmoid(logits), sample_weight=used) / constant
    for found in (
        ne(logits, labels, weights if weighted else None, logits=True),
        ne(sigmoid(logits), labels, weights if weighted else None),
    ):
        assert found == pytest.approx(expected, rel=1e-12)
    assert ne(np.full(len(labels), rate), labels, used) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_pcoc_is_promised_over_seen(weighted: bool) -> None:
    logits, labels, weights = made()
    probs, used = sigmoid(logits), weights if weighted else np.ones(len(labels))
    expected = (used * probs).sum() / (used * labels).sum()
    assert pcoc(probs, labels, weights if weighted else None) == pytest.approx(expected)


@given(st.lists(ROW, min_size=1, max_size=60), st.integers(1, 20))
def test_ece_keeps_ties_together(rows: list[tuple[float, int, float]], bins: int) -> None:
    probs, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    expected = ranking.ece(probs, labels, np.ones(len(rows)), bins)
    assert ece(probs, labels, bins=bins) == pytest.approx(expected, abs=1e-12)
    expected = ranking.ece(probs, labels, weights, bins)
    assert ece(probs, labels, weights, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_ece_of_distinct_scores_is_over_20_equal_bins() -> None:
    logits, labels, _ = made(2000)
    probs = sigmoid(logits)
    order = np.argsort(probs)
    gaps = (probs - labels)[order].reshape(20, 100).mean(axis=1)
    assert ece(probs, labels) == pytest.approx(np.abs(gaps).mean(), rel=1e-12)


def test_ece_of_one_constant_is_its_gap() -> None:
    assert ece([0.3] * 10, [1] + [0] * 9) == pytest.approx(0.2)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_one_class_never_raises_pitfall_T34(labels: list[int]) -> None:
    assert ne([0.2, 0.3], labels) is None
    assert logloss([0.2, 0.3], labels) == pytest.approx(
        -np.mean([math.log(p if y else 1 - p) for p, y in zip([0.2, 0.3], labels, strict=True)])
    )
    assert pcoc([0.2, 0.3], labels) == (pytest.approx(0.25) if labels[0] else None)


def test_no_rows_have_no_value() -> None:
    assert [metric([], []) for metric in (logloss, ne, pcoc, ece)] == [None] * 4


def test_logits_taken_for_probabilities_are_refused() -> None:
    message = r"`probs` must be in \[0, 1\], got -2\.0 in row 0 \(2 such rows\)\."
    for metric in (logloss, ne, pcoc, ece):
        with pytest.raises(ValueError, match=message):
            metric([-2.0, 0.5, 3.0], [0, 1, 1])


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`bins` must be a positive integer, got 0\."):
        ece([0.1], [0], bins=0)
