"""What the plots of several classes show, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recmtl.report.classes import ClassCurves


def rows(num_rows: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.minimum(rng.geometric(0.2, num_rows) - 1, classes - 1)
    logits = rng.normal(size=(num_rows, classes))
    logits[np.arange(num_rows), labels] += 1.5
    return logits, labels.astype(float), rng.random(num_rows) + 0.5


def test_columns_are_those_of_loops_in_any_pieces() -> None:
    logits, labels, weights = rows(400, 4)
    curves = ClassCurves(4)
    for part in (slice(0, 3), slice(3, 3), slice(3, 400)):
        curves.add(logits[part], labels[part], weights[part])
    found = curves.columns()
    total = math.fsum(weights)
    shares, probs = [0.0] * 4, [0.0] * 4
    taken = [[0.0] * 4 for _ in range(4)]
    bins: dict[int, list[tuple[float, float, bool]]] = {}
    for z, y, w in zip(logits.tolist(), labels.astype(int).tolist(), weights.tolist(), strict=True):
        p = [math.exp(value) / math.fsum(map(math.exp, z)) for value in z]
        top = p.index(max(p))
        shares[y] += w / total
        taken[y][top] += w
        probs = [a + w * b / total for a, b in zip(probs, p, strict=True)]
        bins.setdefault(int(p[top] * 20), []).append((w, p[top], top == y))
    assert found["names"] == ["0", "1", "2", "3"]
    np.testing.assert_allclose(found["shares"], shares)
    np.testing.assert_allclose(found["mean_probs"], probs)
    np.testing.assert_allclose(found["confusion"], [[w / sum(row) for w in row] for row in taken])
    each = [bins[k] for k in sorted(bins)]
    mass = [sum(w for w, _, _ in part) for part in each]
    sure = [sum(w * p for w, p, _ in part) / m for part, m in zip(each, mass, strict=True)]
    right = [sum(w for w, _, r in part if r) / m for part, m in zip(each, mass, strict=True)]
    np.testing.assert_allclose(found["reliability"]["mean_probs"], sure)
    np.testing.assert_allclose(found["reliability"]["base_rates"], right)


def test_of_many_classes_the_commonest_are_shown_and_the_others_together() -> None:
    logits, labels, weights = rows(3000, 50)
    labels[:100] = 49
    curves = ClassCurves(50)
    curves.add(logits, labels, weights)
    found = curves.columns()
    mass = np.bincount(labels.astype(int), weights, 50)
    commonest = sorted(np.argsort(-mass)[:19].tolist())
    assert found["names"] == [*map(str, commonest), "other"]
    assert "49" in found["names"]
    for key in ("shares", "mean_probs"):
        assert sum(found[key]) == pytest.approx(1)
    assert found["shares"][:19] == pytest.approx((mass[commonest] / mass.sum()).tolist())
    assert np.shape(found["confusion"]) == (20, 20)
    np.testing.assert_allclose(np.sum(found["confusion"], axis=1), 1)
    others = [c for c in range(50) if c not in commonest]
    is_other = np.isin(labels, others)
    taken = np.isin(logits.argmax(axis=1), others)
    share = (weights * taken)[is_other].sum() / weights[is_other].sum()
    assert found["confusion"][-1][-1] == pytest.approx(share)


def test_no_row_is_nothing() -> None:
    found = ClassCurves(3).columns()
    assert found["shares"] == found["mean_probs"] == [0.0] * 3
    assert found["confusion"] == [[0.0] * 3] * 3
    assert found["reliability"] == {"mean_probs": [], "base_rates": []}
