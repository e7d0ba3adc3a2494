"""ServingNet: the net that is scored, on plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.exporting.rows import TablePrecision
from tests.exporting.models import TOWERS, eager, some_rows, tensors, world


@pytest.mark.parametrize("kind", TOWERS)
def test_it_says_what_the_net_says(kind: str) -> None:
    made = world(kind)
    for rows in (some_rows(40), some_rows(1), [{**row, "tags": []} for row in some_rows(5)]):
        found = made.serving(tensors(made, rows))
        assert list(found) == ["ctr", "cvr", "ctcvr", "dwell"]
        for name, expected_B in eager(made, rows).items():
            assert_close(found[name], expected_B, rtol=1e-6, atol=1e-6)


def test_weights_that_sum_to_zero_make_a_mean_of_zero() -> None:
    made = world("shared_bottom")
    rows = some_rows(4)
    for row in rows:
        row["words"] = [(3, 0.0), (4, 0.0)]
    assert_close(made.serving(tensors(made, rows))["ctr"], eager(made, rows)["ctr"])


@pytest.mark.parametrize(("precision", "most"), [("fp16", 5e-3), ("int8", 2e-2), ("int4", 0.3)])
def test_smaller_tables_cost_a_little(precision: TablePrecision, most: float) -> None:
    made = world("mmoe", precision)
    found, expected = made.serving(tensors(made, some_rows(64))), eager(made, some_rows(64))
    largest = max(float((found[name] - expected[name]).abs().max()) for name in ("ctr", "cvr"))
    assert 0 < largest < most


def test_the_net_it_is_made_of_stays_as_it_was() -> None:
    made = world("mmoe")
    assert all(weight.requires_grad for weight in made.net.parameters())
    with torch.no_grad():
        for weight in made.net.parameters():
            weight.zero_()
    assert any(bool(weight.any()) for weight in made.serving.parameters())
