from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from recmtl.simulate.additive import fit_additive, predict_additive


def test_agrees_with_scikit_learn_on_soft_targets() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 6, 3_000), rng.integers(0, 4, 3_000)]
    z_N = rng.normal(size=6)[columns[0]] * rng.normal(size=4)[columns[1]] - 1
    prob_N = 1 / (1 + np.exp(-z_N))
    effects = fit_additive(columns, prob_N, max_cycles=500, tol=1e-10)
    onehot_NM = np.concatenate([np.eye(6)[columns[0]], np.eye(4)[columns[1]]], axis=1)
    # A soft target p is a positive row of weight p and a negative one of weight 1 - p.
    reference = LogisticRegression(C=1e6, tol=1e-10, max_iter=10_000).fit(
        np.concatenate([onehot_NM, onehot_NM]),
        np.repeat([1, 0], 3_000),
        sample_weight=np.concatenate([prob_N, 1 - prob_N]),
    )
    expected_N = reference.decision_function(onehot_NM)
    assert predict_additive(effects, columns) == pytest.approx(expected_N, abs=2e-4)


def test_recovers_an_additive_truth() -> None:
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 50, 20_000), rng.integers(0, 30, 20_000)]
    z_N = rng.normal(size=50)[columns[0]] + rng.normal(size=30)[columns[1]]
    effects = fit_additive(columns, 1 / (1 + np.exp(-z_N)))
    assert predict_additive(effects, columns) == pytest.approx(z_N, abs=1e-2)


def test_levels_that_were_not_fitted_have_no_effect() -> None:
    effects = fit_additive([np.array([0, 2]), np.array([0, 0])], np.array([0.2, 0.9]))
    unseen = predict_additive(effects, [np.array([1, 7]), np.array([5, 5])])
    assert unseen.tolist() == [0.0, 0.0]
