from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from recmtl.metrics import mae, rmse


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_scikit_learn(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    predictions, labels = rng.normal(size=(2, 200))
    weights = rng.choice([0.0, 0.5, 2.0], 200) if weighted else None
    expected = root_mean_squared_error(labels, predictions, sample_weight=weights)
    assert rmse(predictions, labels, weights) == pytest.approx(expected, rel=1e-12)
    expected = mean_absolute_error(labels, predictions, sample_weight=weights)
    assert mae(predictions, labels, weights) == pytest.approx(expected, rel=1e-12)


def test_no_rows_have_no_value() -> None:
    assert rmse([], []) is None
    assert mae([1.0], [2.0], [0.0]) is None


def test_missing_labels_are_refused() -> None:
    message = r"`labels` must be finite numbers, got nan in row 1 \(1 such rows\)\."
    with pytest.raises(ValueError, match=message):
        rmse([1.0, 2.0], [3.0, np.nan])
