"""Resampled metrics against scikit-learn and plain loops over rows that count as often as drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recmtl.data.codes import read_aside
from recmtl.metrics.population import Kind, Population, Rows, float32_codes
from recmtl.studies.resampled_metrics import resampled_metrics
from recmtl.studies.resampling import Resamples
from recmtl.studies.units import MOST_UNITS, UNIT, Units, with_units

ROWS, GROUPS, SEGMENTS, CLASSES = 240, 11, 3, 3


class World:
    """Rows of few distinct scores, so that there are ties, in segments of unequal size."""

    def __init__(self, kind: Kind, *, is_weighted: bool) -> None:
        rng = np.random.default_rng(5)
        self.kind = kind
        self.group = rng.integers(0, GROUPS, ROWS).astype(np.uint32)
        self.segment = np.minimum(rng.integers(0, 6, ROWS), SEGMENTS - 1).astype(np.uint32)
        self.weight = (rng.random(ROWS) + 0.2).astype(np.float32) if is_weighted else None
        if kind == "binary":
            self.said = (rng.integers(-6, 7, ROWS) / 3).astype(np.float32)
            self.label = (rng.random(ROWS) < 0.35).astype(np.int8)
        elif kind == "regression":
            self.said, self.label = rng.normal(size=(2, ROWS)).astype(np.float32)
        else:
            self.said = rng.normal(size=(ROWS, CLASSES)).astype(np.float32)
            self.label = rng.integers(0, CLASSES, ROWS).astype(np.int32)

    def population(self, units: Units) -> Population:
        """The rows in blocks of seven; the unit is the last of two segment columns."""

        def blocks() -> Iterator[Rows]:
            for start in range(0, ROWS, 7):
                part = slice(start, start + 7)
                yield Rows(
                    self.said[part],
                    self.label[part],
                    None if self.weight is None else self.weight[part],
                    float32_codes(self.said[part]) if self.kind == "binary" else None,
                    self.group[part] if self.kind == "binary" else None,
                    (self.segment[part], units(self.group[part])),
                )

        return Population(
            kind=self.kind,
            blocks=blocks,
            num_rows=ROWS,
            classes=CLASSES,
            is_weighted=self.weight is not None,
            logits=self.kind != "regression",
            num_groups=GROUPS if self.kind == "binary" else 0,
            segments=(SEGMENTS, units.count),
            memory=1 << 12,
        )

    def bins(self, rows: np.ndarray) -> np.ndarray:
        """The bin of each of some rows: where the middle of its score's mass falls."""
        weight = np.ones(ROWS) if self.weight is None else self.weight.astype(np.float64)
        total = sum(weight[r] for r in rows)
        found = []
        for row in rows:
            below = sum(weight[r] for r in rows if self.said[r] < self.said[row])
            equal = sum(weight[r] for r in rows if self.said[r] == self.said[row])
            found.append(min(int(20 * (below + equal / 2) // total), 19))
        return np.array(found)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def binary_metrics(world: World, rows: np.ndarray, times: np.ndarray) -> dict[str, float]:
    weight = times[rows] * (1.0 if world.weight is None else world.weight[rows].astype(np.float64))
    label, said = world.label[rows], world.said[rows].astype(np.float64)
    probs = 1 / (1 + np.exp(-said))
    drawn = weight > 0
    if len(set(label[drawn].tolist())) < 2:
        return {}
    loss = log_loss(label, probs, sample_weight=weight)
    share = float(np.average(label, weights=weight))
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    won = of = 0.0
    for group in range(GROUPS):
        own = (world.group[rows] == group) & drawn
        if len(set(label[own].tolist())) == 2:
            won += weight[own].sum() * roc_auc_score(
                label[own], said[own], sample_weight=weight[own]
            )
            of += weight[own].sum()
    bins = world.bins(rows)
    gaps = [abs((weight * (probs - label))[bins == k].sum()) for k in range(20)]
    return {
        "auc": float(roc_auc_score(label, said, sample_weight=weight)),
        "gauc": won / of,
        "logloss": float(loss),
        "ne": float(loss / entropy),
        "pcoc": float((weight * probs).sum() / (weight * label).sum()),
        "ece": sum(gaps) / weight.sum(),
    }


def other_metrics(world: World, rows: np.ndarray, times: np.ndarray) -> dict[str, float]:
    weight = times[rows] * (1.0 if world.weight is None else world.weight[rows].astype(np.float64))
    label, said = world.label[rows], world.said[rows].astype(np.float64)
    if world.kind == "regression":
        return {
            "rmse": float(np.sqrt(np.average((said - label) ** 2, weights=weight))),
            "mae": float(np.average(np.abs(said - label), weights=weight)),
        }
    probs = softmax(said)
    loss = float(log_loss(label, probs, sample_weight=weight, labels=range(CLASSES)))
    shares = [weight[label == c].sum() / weight.sum() for c in range(CLASSES)]
    right = probs.argmax(axis=1) == label
    return {
        "logloss": loss,
        "ne": loss / -sum(s * np.log(s) for s in shares if s),
        "accuracy": float(np.average(right, weights=weight)),
    }


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("column", [None, 0])
@pytest.mark.parametrize("kind", ["binary", "regression", "multiclass"])
def test_metrics_are_those_of_rows_that_count_as_often_as_their_group_is_drawn(
    kind: Kind, column: int | None, is_weighted: bool
) -> None:
    world, units = World(kind, is_weighted=is_weighted), Units.of_groups([np.arange(GROUPS)])
    resamples = Resamples(GROUPS, 12, seed=2)
    found = resampled_metrics(world.population(units), column, units, resamples)
    assert len(found) == (1 if column is None else SEGMENTS)
    plain = binary_metrics if kind == "binary" else other_metrics
    compared = 0
    for value, resampled in enumerate(found):
        rows = np.arange(ROWS)
        rows = rows if column is None else np.flatnonzero(world.segment == value)
        for r, count_G in enumerate(resamples):
            expected = plain(world, rows, count_G[world.group].astype(np.float64))
            for name, number in expected.items():
                assert resampled[name][r] == pytest.approx(number, rel=1e-6), name
                compared += 1
        assert set(resampled) >= set(expected)
    assert compared > 20


def test_parts_of_many_groups_keep_groups_whole() -> None:
    units = Units.of_groups([np.arange(10 * MOST_UNITS)])
    assert (units.count, units.is_part) == (MOST_UNITS, True)
    codes = np.random.default_rng(0).integers(0, 10 * MOST_UNITS, 50_000)
    unit = units(codes)
    assert np.array_equal(unit, units(codes))
    sizes = np.bincount(units(np.arange(10 * MOST_UNITS)), minlength=MOST_UNITS)
    assert (sizes.sum(), sizes.max() < 40) == (10 * MOST_UNITS, True)  # a Poisson of 10


def test_rows_without_groups_are_drawn_one_by_one() -> None:
    rows = pl.DataFrame({"segment": ["a", "b", "a"]})
    aside, units = with_units(read_aside(rows, None, ["segment"], memory=None), 3, memory=None)
    assert (units.count, units.is_part, aside.groups) == (3, False, None)
    assert aside.segments[UNIT].read(np.arange(3)).tolist() == [0, 1, 2]
    assert aside.segments["segment"].names == ("a", "b")


def test_a_group_without_rows_is_no_unit() -> None:
    """Integers far apart are numbered by where they lie, and few of the numbers have rows."""
    users = [7, 10**9, None, 10**9, -5]
    aside = read_aside(pl.DataFrame({"user": users}), "user", [], memory=None)
    aside, units = with_units(aside, len(users), memory=None)
    assert (units.count, units.is_part) == (4, False)
    unit_N = aside.segments[UNIT].read(np.arange(len(users)))
    assert unit_N.tolist() == [2, 3, 0, 3, 1]
