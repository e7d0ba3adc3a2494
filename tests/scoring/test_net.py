"""ScoringNet: the logits of the net, with fields folded, gathered or multiplied as bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from recmtl.embeddings import PlainLookup
from recmtl.embeddings.plain import TablePrecision
from recmtl.models import MultiTaskNet, build_net
from recmtl.scoring.net import ScoringNet
from recmtl.towers import ESMMConfig, MMoEConfig, PLEConfig, SharedBottomConfig, TowerConfig
from tests.embeddings.world import (
    DIMS,
    ENCODERS,
    LOOKED_UP,
    ROWS,
    SPEC,
    random_rows,
    to_batch,
    world_layout,
)

TOWERS: list[TowerConfig] = [
    MMoEConfig(num_experts=3, expert_widths=(8, 4), head_widths=(4,)),
    PLEConfig(num_shared_experts=1, num_task_experts=2, expert_widths=(8, 4), head_widths=()),
    ESMMConfig(head_widths=(8,)),
    SharedBottomConfig(expert_widths=(8,), head_widths=(4,)),
]


def net_of(
    tower: TowerConfig, precision: TablePrecision = "fp32", stack_bytes: int = 2**28
) -> MultiTaskNet:
    generator = torch.Generator().manual_seed(1)
    tables = {name: torch.randn(ROWS[name], DIMS[name], generator=generator) for name in ROWS}
    lookup = PlainLookup(world_layout(), tables, stack_bytes=stack_bytes, precision=precision)
    return build_net(SPEC, tower, ENCODERS, lookup).eval()


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.kind)
@pytest.mark.parametrize("fold_bytes", [0, 700, 2**24])
@pytest.mark.parametrize("stack_bytes", [0, 2**28])
def test_logits_are_those_of_the_net(tower: TowerConfig, fold_bytes: int, stack_bytes: int) -> None:
    net, batch = net_of(tower, stack_bytes=stack_bytes), to_batch(random_rows(40, seed=5))
    with torch.no_grad():
        expected = net(batch)
    assert_close(ScoringNet(net, fold_bytes=fold_bytes)(batch), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("fold_bytes", [0, 2**24])
def test_smaller_tables_cost_a_little(precision: TablePrecision, fold_bytes: int) -> None:
    batch = to_batch(random_rows(40, seed=6))
    exact, small = net_of(TOWERS[0]), net_of(TOWERS[0], precision)
    with torch.no_grad():
        found, expected = ScoringNet(small, fold_bytes=fold_bytes)(batch), exact(batch)
    assert_close(found, expected, rtol=0.02, atol=0.02)
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tables_keep_their_promise_in_memory(precision: TablePrecision) -> None:
    rows, dim = sum(ROWS[name] for name in ROWS if DIMS[name] == 8), 8
    lookup = net_of(TOWERS[0], precision).lookup
    bytes_of_a_row = {"fp16": 2 * dim, "int8": dim + 8}[precision]
    assert isinstance(lookup, PlainLookup)
    assert lookup.get_buffer("width_8").nbytes == rows * bytes_of_a_row


def test_a_row_scores_the_same_in_any_company() -> None:
    net = ScoringNet(net_of(TOWERS[0], "int8"), fold_bytes=700)
    rows: list[dict[str, Any]] = random_rows(64, seed=7)
    together = net(to_batch(rows))
    assert torch.equal(net(to_batch(rows[::-1])), together.flip(0))


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.kind)
def test_one_row_again_and_again(tower: TowerConfig) -> None:
    net, batch = net_of(tower), to_batch(random_rows(1, seed=8))
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    with torch.no_grad():
        expected = net(batch)
    scorer = ScoringNet(net, fold_bytes=0)
    for _ in range(3):
        assert_close(scorer(batch), expected, rtol=1e-5, atol=2e-6)
    assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_tables_of_zeros_are_bytes_too() -> None:
    net = net_of(TOWERS[0], "int8")
    zero = PlainLookup(
        world_layout(),
        {name: torch.zeros(ROWS[name], DIMS[name]) for name in ROWS},
        precision="int8",
    )
    net.lookup = zero
    batch = to_batch(random_rows(40, seed=9))
    with torch.no_grad():
        expected = net(batch)
    assert_close(ScoringNet(net, fold_bytes=0)(batch), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rows_without_any_item(precision: TablePrecision) -> None:
    is_list = {name for name, feature in LOOKED_UP.items() if feature["kind"] != "single"}
    rows = [
        {name: [] if name in is_list else entries for name, entries in row.items()}
        for row in random_rows(7, seed=10)
    ]
    batch = to_batch(rows)
    lists = [*batch.bags.values(), *batch.sequences.values()]
    assert lists
    assert not any(column.lengths_B.any() for column in lists)
    with torch.no_grad():
        expected = net_of(TOWERS[0])(batch)
    found = ScoringNet(net_of(TOWERS[0], precision))(batch)
    assert_close(found, expected, rtol=0.02, atol=0.02)
