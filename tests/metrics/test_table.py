from __future__ import annotations

import json

import numpy as np
import pytest

from recmtl import metrics
from recmtl.metrics import segment_metrics, task_metrics


def made(num_rows: int = 400) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, num_rows).astype(np.float32)
    labels = (rng.random(num_rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    observed = rng.random(num_rows) < 0.6
    labels[~observed] = np.nan
    return {
        "logits": logits,
        "labels": labels,
        "observed": observed,
        "weights": rng.choice([0.0, 1.0, 2.5], num_rows),
        "groups": rng.integers(0, 30, num_rows),
        "device": rng.choice(["app", "web"], num_rows),
    }


@pytest.mark.parametrize("weighted", [False, True])
def test_is_made_of_the_single_metrics(weighted: bool) -> None:
    data = made()
    weights = data["weights"] if weighted else None
    found = task_metrics(
        "binary",
        data["logits"],
        data["labels"],
        observed=data["observed"],
        weights=weights,
        groups=data["groups"],
        logits=True,
    )
    seen = data["observed"]
    z, y, w = (
        data["logits"][seen],
        data["labels"][seen],
        data["weights"][seen] if weighted else None,
    )
    probs = 1 / (1 + np.exp(-z.astype(np.float64)))
    grouped = metrics.gauc(z, y, data["groups"][seen], w)
    counted = y if w is None else y[w > 0]
    expected = {
        "n": len(counted),
        "positives": int(counted.sum()),
        "auc": metrics.auc(z, y, w),
        "gauc": grouped.value,
        "gauc_groups": grouped.groups,
        "gauc_undefined_groups": grouped.undefined_groups,
        "logloss": metrics.logloss(z, y, w, logits=True),
        "ne": metrics.ne(z, y, w, logits=True),
        "pcoc": metrics.pcoc(probs, y, w),
        "ece": metrics.ece(probs, y, w),
    }
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-12)
    json.dumps(found, allow_nan=False)


def test_probabilities_and_logits_agree() -> None:
    data = made()
    probs = 1 / (1 + np.exp(-data["logits"].astype(np.float64)))
    keys = {"observed": data["observed"], "groups": data["groups"]}
    from_logits = task_metrics("binary", data["logits"], data["labels"], logits=True, **keys)
    assert task_metrics("binary", probs, data["labels"], **keys) == pytest.approx(from_logits)


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1, 1]])
def test_undefined_values_are_none_pitfall_T34(labels: list[int]) -> None:
    probs = [0.2, 0.3, 0.4][: len(labels)]
    found = task_metrics("binary", probs, labels, groups=[1, 1, 2][: len(labels)])
    assert found["n"] == len(labels)
    assert found["auc"] is found["gauc"] is found["ne"] is None
    assert found["gauc_undefined_groups"] == (2 if labels else 0)
    assert (found["logloss"] is None) == (not labels)
    json.dumps(found, allow_nan=False)


def test_a_population_without_rows_is_no_error() -> None:
    nowhere = np.zeros(3, dtype=bool)
    nothing = task_metrics("binary", [0.1] * 3, [np.nan] * 3, observed=nowhere, groups=["a"] * 3)
    assert (nothing["n"], nothing["auc"], nothing["ece"]) == (0, None, None)
    assert task_metrics("regression", [0.1] * 3, [np.nan] * 3, observed=nowhere) == {
        "n": 0,
        "rmse": None,
        "mae": None,
    }


def test_the_metric_of_all_rows_is_no_mean_over_batches_pitfall_T34() -> None:
    """Batches of one class have no AUC of their own; their rows count all the same."""
    scores, labels = np.array([0.1, 0.6, 0.5, 0.9]), np.array([0, 0, 1, 1])
    halves = [task_metrics("binary", scores[h], labels[h])["auc"] for h in ([0, 1], [2, 3])]
    assert halves == [None, None]
    assert task_metrics("binary", scores, labels)["auc"] == 0.75


def test_regression_has_errors_in_the_labels_unit() -> None:
    found = task_metrics("regression", [1.0, 2.0, 9.0], [4.0, 6.0, np.nan], observed=[1, 1, 0])
    assert found == {"n": 2, "rmse": pytest.approx(12.5**0.5), "mae": 3.5}


def test_segments_are_the_metrics_of_their_rows() -> None:
    data = made()
    keys = {"observed": data["observed"], "weights": data["weights"], "groups": data["groups"]}
    found = segment_metrics(
        "binary", data["logits"], data["labels"], data["device"], logits=True, **keys
    )
    assert list(found) == ["app", "web"]
    for device, by_device in found.items():
        rows = data["device"] == device
        assert by_device == task_metrics(
            "binary",
            data["logits"][rows],
            data["labels"][rows],
            logits=True,
            **{name: column[rows] for name, column in keys.items()},
        )


def test_segments_of_missing_values_come_last() -> None:
    values = np.array(["b", None, "a", "b"], dtype=object)
    found = segment_metrics("binary", [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1], values)
    assert {value: by_value["n"] for value, by_value in found.items()} == {
        "a": 1,
        "b": 2,
        "null": 1,
    }
    assert list(found) == ["a", "b", "null"]


def test_the_text_null_is_not_a_missing_value() -> None:
    values = np.array(["null", None, "null", "a"], dtype=object)
    found = segment_metrics("binary", [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1], values)
    assert {value: by_value["n"] for value, by_value in found.items()} == {
        "a": 1,
        '"null"': 2,
        "null": 1,
    }
    alone = segment_metrics("binary", [0.1, 0.3, 0.4], [0, 0, 1], ["null", "null", "a"])
    assert list(alone) == ["a", "null"]


def test_a_segment_without_an_observed_row_is_shown() -> None:
    found = segment_metrics(
        "binary", [0.1, 0.2], [0, np.nan], np.array([1, 2]), observed=[True, False]
    )
    assert {value: by_value["n"] for value, by_value in found.items()} == {"1": 1, "2": 0}


def test_no_rows_have_no_segments() -> None:
    assert segment_metrics("binary", [], [], np.array([], dtype=object)) == {}


def test_columns_of_another_length_are_named() -> None:
    with pytest.raises(ValueError, match=r"`labels` must be one column .* \(2,\), got \(3,\)\."):
        task_metrics("binary", [0.1, 0.2], [0, 1, 1], observed=[True, True])
    with pytest.raises(ValueError, match=r"`groups` must be one column .* \(2,\), got \(1,\)\."):
        segment_metrics("binary", [0.1, 0.2], [0, 1], ["a", "b"], groups=[1])


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`kind` must be one of .* Did you mean `binary`\?"):
        task_metrics("binari", [0.1], [0])
