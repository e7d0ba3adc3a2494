from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recmtl.metrics import auc, gauc
from tests.reference import ranking

ROW = st.tuples(
    st.integers(-3, 3), st.integers(0, 1), st.sampled_from([0.0, 0.25, 1.0, 2.0]), st.integers(0, 3)
)
ROWS = st.lists(ROW, min_size=1, max_size=40)


def columns(rows: list[tuple[int, int, float, int]]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001, 0.0001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_is_that_of_scikit_learn_pitfall_T31(
    rate: float, dtype: type[np.floating], weighted: bool
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(100_000) < rate
    scores = rng.normal(1.5 * labels, 1).astype(dtype)
    scores[::3] = scores[::3].round(1)  # many ties
    weights = rng.gamma(2, 1, 100_000) if weighted else None
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(scores, labels, weights) == pytest.approx(expected, abs=1e-9)


@given(ROWS)
def test_auc_counts_pairs(rows: list[tuple[int, int, float, int]]) -> None:
    scores, labels, weights, _ = columns(rows)
    expected = ranking.auc(scores, labels, weights)
    assert auc(scores, labels, weights) == (None if expected is None else pytest.approx(expected))
    alike = ranking.auc(scores, labels, np.ones(len(scores)))
    assert auc(scores, labels) == (None if alike is None else pytest.approx(alike, rel=1e-12))


@given(ROWS)
def test_auc_only_sees_the_order(rows: list[tuple[int, int, float, int]]) -> None:
    scores, labels, weights, _ = columns(rows)
    shuffled = np.random.default_rng(len(rows)).permutation(len(rows))
    moved = auc(np.exp(scores[shuffled] / 2.0), labels[shuffled])
    assert moved == auc(scores, labels)
    turned = auc(-scores, labels, weights)
    assert turned is None or turned == pytest.approx(1 - auc(scores, labels, weights))


@pytest.mark.parametrize("weighted", [False, True])
@given(rows=ROWS)
def test_gauc_is_the_mean_over_groups_pitfall_T32(
    weighted: bool, rows: list[tuple[int, int, float, int]]
) -> None:
    scores, labels, weights, groups = columns(rows)
    used = weights if weighted else np.ones(len(rows))
    value, defined, undefined = ranking.gauc(scores, labels, groups, used)
    found = gauc(scores, labels, groups, weights if weighted else None)
    assert found.value == (None if value is None else pytest.approx(value, rel=1e-12))
    assert (found.groups, found.undefined_groups) == (defined, undefined)


@pytest.mark.parametrize(
    "dtype", [np.int32, np.uint64, np.float32, "U", "S", object, "datetime64[s]"]
)
def test_gauc_takes_any_keys_pitfall_T32(dtype: str | type) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random(500), rng.integers(0, 2, 500)
    groups = rng.integers(0, 60, 500)
    keys = groups.astype("U" if dtype is object else dtype).astype(dtype)
    assert gauc(scores, labels, keys) == gauc(scores, labels, groups)


@pytest.mark.parametrize("missing", [None, np.nan])
def test_missing_keys_are_one_group(missing: float | None) -> None:
    scores, labels = [0.1, 0.9, 0.3, 0.2, 0.7], [0, 1, 1, 0, 1]
    keys = ["a", "a", "b", "b", "b"] if missing is None else [1.0, 1.0, 2.0, 2.0, 2.0]
    holes = [missing if key in ("b", 2.0) else key for key in keys]
    assert gauc(scores, labels, holes) == gauc(scores, labels, keys)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_has_no_value_pitfall_T34(labels: list[int]) -> None:
    assert auc([0.1, 0.2, 0.3], labels) is None
    assert gauc([0.1, 0.2, 0.3], labels, [0, 0, 1]) == (None, 0, 2)


def test_no_rows_have_no_value() -> None:
    assert auc([], []) is None
    assert gauc([], [], []) == (None, 0, 0)
    assert auc([0.1, 0.2], [0, 1], [0.0, 0.0]) is None
    assert gauc([0.1, 0.2], [0, 1], ["a", "b"], [0.0, 0.0]) == (None, 0, 0)


def test_ranks_of_long_columns_stay_exact() -> None:
    """Counts of pairs beyond float32: two million rows, one pair in the wrong order."""
    scores = np.arange(2_000_000, dtype=np.float64)
    labels = scores >= 1_000_000
    labels[[999_999, 1_000_000]] = labels[[1_000_000, 999_999]]
    assert auc(scores, labels) == 1 - 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([0.1, np.nan], [0, 1]),
            r"`predictions` must be finite numbers, got nan in row 1 \(1 such rows\)",
        ),
        (([0.1, 0.2], [0, 2]), r"`labels` must be 0 or 1, got 2\.0 in row 1 \(1 such rows\)"),
        (([0.1, 0.2], [0, np.nan]), r"`labels` must be 0 or 1, got nan in row 1"),
        (([0.1, 0.2], [0, 1], [1, -1]), r"`weights` must be finite numbers of at least 0, got -1"),
        (([0.1, 0.2], [0]), r"`labels` must be one column .* expected shape \(2,\), got \(1,\)"),
        (([[0.1], [0.2]], [0, 1]), r"`predictions` must be one column .* got \(2, 1\)"),
    ],
)
def test_bad_columns_are_named(arguments: tuple[list[float], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(*arguments)


def test_a_group_column_of_another_length_is_refused_pitfall_T32() -> None:
    with pytest.raises(
        ValueError, match=r"`groups` must be one column .* shape \(2,\), got \(1,\)"
    ):
        gauc([0.1, 0.2], [0, 1], [7])


@pytest.mark.slow
def test_ten_million_rows_need_no_loop_over_groups_pitfall_T32() -> None:
    rng = np.random.default_rng(0)
    num_rows, num_groups = 10_000_000, 1_000_000
    groups = rng.integers(0, num_groups, num_rows)
    labels = rng.random(num_rows) < 0.1
    scores = rng.random(num_rows, dtype=np.float32)
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = gauc(scores, labels, groups)
    finally:
        sys.setprofile(None)
    assert calls < num_groups // 10
    few = groups < 300
    value, defined, undefined = ranking.gauc(
        *(column[few].tolist() for column in (scores, labels, groups)), [1.0] * int(few.sum())
    )
    part = gauc(scores[few], labels[few], groups[few])
    assert part.value == pytest.approx(value, rel=1e-12)
    assert (part.groups, part.undefined_groups) == (defined, undefined)
    assert found.groups + found.undefined_groups == len(np.unique(groups))
    assert found.value == pytest.approx(0.5, abs=2e-3)
