"""Distributions in counts: beside numpy on the numbers themselves, and the same in any pieces."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from recmtl.metrics.sketch import Distribution, psi, psi_by_chance

RNG = np.random.default_rng(0)
RARE = RNG.beta(0.5, 20, 50_000).astype(np.float32)
OFTEN = (1 - RNG.beta(0.5, 20, 50_000)).astype(np.float32)
YEARS = RNG.normal(2_000, 5, 50_000).astype(np.float32)
SIGNED = RNG.standard_cauchy(50_000).astype(np.float32)
Kind = Literal["probability", "number"]


def counted(kind: Kind, values: NDArray[Any], **around: float) -> Distribution:
    found = Distribution(kind, **around)
    found.add(values)
    return found


@pytest.mark.parametrize(
    ("kind", "values", "around"),
    [
        ("probability", RARE, {}),
        ("probability", OFTEN, {}),
        ("number", YEARS, {"shift": 2_000.0, "scale": 5.0}),
        ("number", SIGNED, {}),
    ],
    ids=["rare", "often", "years", "signed"],
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_quantiles_are_those_of_the_numbers_within_three_per_cent(
    kind: Kind, values: NDArray[Any], around: dict[str, float], share: float
) -> None:
    expected = float(np.quantile(values, share))
    near = abs(expected - around.get("shift", 0.0))
    apart = 1e-3 * around.get("scale", 1.0)  # between two numbers of the sample
    if kind == "probability":
        near, apart = min(near, 1 - expected), 1e-6
    found = counted(kind, values, **around).quantile(share)
    assert found == pytest.approx(expected, abs=0.032 * near + apart)


@pytest.mark.parametrize("values", [RARE, YEARS, SIGNED])
def test_moments_are_those_of_the_numbers(values: NDArray[Any]) -> None:
    found, exact = counted("number", values), values.astype(np.float64)
    assert found.count == len(values)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert found.std == pytest.approx(exact.std(), rel=1e-12)
    assert (found.low, found.high) == (exact.min(), exact.max())


def test_pieces_of_whole_blocks_add_up_to_the_last_bit() -> None:
    whole = counted("number", SIGNED).to_dict()
    for block in (4096, 3 * 4096):
        added, merged = Distribution("number"), Distribution("number")
        for start in range(0, len(SIGNED), block):
            added.add(SIGNED[start : start + block])
        assert added.to_dict() == whole
        for start in range(0, len(SIGNED), block):
            merged.merge(counted("number", SIGNED[start : start + block]))
        assert merged.bins.tolist() == added.bins.tolist()
        assert merged.mean == pytest.approx(added.mean, rel=1e-12)


def test_every_number_lies_between_the_edges_of_its_bin() -> None:
    for kind, values in (("probability", np.concatenate([RARE, OFTEN])), ("number", SIGNED)):
        found = Distribution(kind)  # type: ignore[arg-type]
        for value in [*values[:200].tolist(), 0.0, 0.25, 0.5, 0.75, 1.0]:
            number = float(np.float32(value))
            at = int(found._bin(np.array([number], np.float32))[0])
            low, high = found._edge(at), found._edge(at + 1)
            assert low <= number <= high
            assert high - low <= max(abs(number) / 31, 1e-30) or kind == "probability"


def test_numbers_that_are_not_finite_are_counted_apart() -> None:
    found = counted("number", np.array([1.0, np.nan, np.inf, -np.inf, 3.0], np.float32))
    assert (found.count, found.not_finite, found.mean, found.low, found.high) == (2, 3, 2.0, 1, 3)
    assert Distribution("number").std == 0.0


def test_it_is_the_same_after_json() -> None:
    for found in (counted("number", SIGNED[:100]), Distribution("probability")):
        again = Distribution.from_dict(json.loads(json.dumps(found.to_dict())))
        assert again.to_dict() == found.to_dict()
        again.add(SIGNED[:5] if found.count else RARE[:5])


def test_psi_is_its_formula() -> None:
    p, q = [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi(np.array(p) * 70, np.array(q) * 9) == pytest.approx(expected, rel=1e-12)
    empty = psi(np.array([100.0, 0.0]), np.array([50.0, 50.0]))
    assert empty == pytest.approx((0.5 - 1) * math.log(0.5) + (0.5 - 1e-4) * math.log(0.5 / 1e-4))


def test_psi_of_distributions_is_that_of_their_tenths() -> None:
    now = (RARE * 1.5).clip(0, 1)
    edges = np.quantile(RARE.astype(np.float64), np.arange(1, 10) / 10)
    shares = [np.bincount(np.searchsorted(edges, x), minlength=10) / len(x) for x in (RARE, now)]
    expected = psi(*shares)
    assert expected > 0.05
    found = counted("probability", now).psi(counted("probability", RARE))
    assert found == pytest.approx(expected, rel=0.1)


def test_chance_alone_stays_below_its_bound() -> None:
    reference = counted("probability", RARE)
    found = [counted("probability", RARE[k * 500 : k * 500 + 500]) for k in range(100)]
    indices = [one.psi(reference) for one in found]
    assert np.mean(indices) == pytest.approx(9 * (1 / 500 + 1 / 50_000), rel=0.3)
    assert max(indices) < psi_by_chance(10, 500, 50_000)
