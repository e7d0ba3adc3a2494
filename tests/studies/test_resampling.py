"""The bootstrap against plain loops over resampled rows."""

from __future__ import annotations

import numpy as np
import pytest

from recmtl.studies.resampling import Resamples, resampled_auc, resampled_mean


def area(scores: list[float], labels: list[int], weights: list[float]) -> float:
    """AUC by its definition, over all pairs."""
    won = pairs = 0.0
    for score, label, weight in zip(scores, labels, weights, strict=True):
        for other, other_label, other_weight in zip(scores, labels, weights, strict=True):
            if label == 1 and other_label == 0:
                pairs += weight * other_weight
                won += weight * other_weight * ((score > other) + 0.5 * (score == other))
    return won / pairs if pairs else float("nan")


def world(rows: int = 60, groups: int = 9) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    score = rng.integers(0, 8, rows).astype(np.float32)  # many ties
    label = (rng.random(rows) < 0.3).astype(np.int8)
    return score, label, rng.integers(0, groups, rows), rng.random(rows).astype(np.float32) + 0.1


@pytest.mark.parametrize("is_weighted", [False, True])
def test_auc_is_that_of_the_rows_repeated_as_their_groups_are_drawn(is_weighted: bool) -> None:
    score, label, group, weight = world()
    resamples = Resamples(9, 25, seed=5)
    auc, auc_R = resampled_auc(score, label, group, resamples, weight if is_weighted else None)
    weights = weight.tolist() if is_weighted else [1.0] * len(score)
    assert auc == pytest.approx(area(score.tolist(), label.tolist(), weights), rel=1e-12)
    for count_G, found in zip(resamples, auc_R, strict=True):
        rows = [n for n, g in enumerate(group) for _ in range(count_G[g])]
        expected = area(
            [float(score[n]) for n in rows],
            [int(label[n]) for n in rows],
            [weights[n] for n in rows],
        )
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_a_resample_without_a_class_has_no_auc() -> None:
    one_positive = np.array([0, 0, 1])
    resamples = Resamples(3, 60, seed=0)
    auc, auc_R = resampled_auc(np.arange(3.0), one_positive, np.arange(3), resamples)
    assert auc == 1.0
    missing = [bool(count_G[2] == 0 or count_G[:2].sum() == 0) for count_G in resamples]
    assert any(missing)
    assert np.isnan(auc_R).tolist() == missing
    assert np.isnan(resampled_auc(np.arange(3.0), np.zeros(3), np.arange(3), resamples)[0])


def test_means_are_those_of_the_rows_repeated_as_their_groups_are_drawn() -> None:
    value, _, group, weight = world()
    resamples = Resamples(9, 25, seed=6)
    mean, mean_R = resampled_mean(value, group, resamples, weight)
    assert mean == pytest.approx(float(np.average(value.astype(np.float64), weights=weight)))
    for count_G, found in zip(resamples, mean_R, strict=True):
        rows = [n for n, g in enumerate(group) for _ in range(count_G[g])]
        total = sum(float(weight[n]) for n in rows)
        expected = sum(float(weight[n]) * float(value[n]) for n in rows) / total
        assert found == pytest.approx(expected, rel=1e-12)


def test_draws_depend_on_the_seed_and_the_number_alone() -> None:
    first, more = list(Resamples(50, 3, seed=1)), list(Resamples(50, 7, seed=1))
    assert all((a == b).all() for a, b in zip(first, more[:3], strict=True))
    assert any((a != b).any() for a, b in zip(first, Resamples(50, 3, seed=2), strict=True))
    again = Resamples(50, 3, seed=1)
    assert all((a == b).all() for _ in range(2) for a, b in zip(first, again, strict=True))
    assert all(int(draw.sum()) == 50 for draw in more)


def test_each_group_is_drawn_as_often_as_any_other() -> None:
    total_G = np.sum(list(Resamples(10, 4000, seed=0)), axis=0)
    assert np.abs(total_G / 4000 - 1).max() < 5 * np.sqrt(0.9 / 4000)
