"""A frozen tower computes what the tower does, whatever the tower is made of."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from recmtl.models.frozen import FrozenTower, freeze
from recmtl.towers import (
    CGCConfig,
    ESMMConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    TaskSlot,
    TowerConfig,
    build_tower,
)

TASKS = (TaskSlot("a"), TaskSlot("b", outputs=3), TaskSlot("c"))
WIDTHS = (8, 4)
CONFIGS: list[TowerConfig] = [
    SharedBottomConfig(expert_widths=WIDTHS),
    SharedBottomConfig(expert_widths=(8,), head_widths=()),
    ESMMConfig(head_widths=WIDTHS),
    ESMMConfig(head_widths=()),
    MMoEConfig(num_experts=3, expert_widths=WIDTHS),
    MMoEConfig(num_experts=3, expert_widths=(8,), gate_widths=(5,), gate_bias=True, head_widths=()),
    CGCConfig(num_shared_experts=0, expert_widths=WIDTHS),
    CGCConfig(num_shared_experts=2, num_task_experts=1, gate_bias=True, expert_widths=WIDTHS),
    *(
        PLEConfig(
            num_levels=levels,
            num_shared_experts=shared,
            num_task_experts=own,
            expert_widths=WIDTHS,
            gate_widths=gate_widths,
            gate_bias=not gate_widths,
        )
        for levels, shared, own, gate_widths in itertools.product(
            (2, 3), (0, 1, 3), (0, 1, 2), ((), (5,))
        )
        if shared + own
    ),
]


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_logits_are_those_of_the_tower(num_tasks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for config in CONFIGS:
        tower = build_tower(config, in_dim=6, tasks=TASKS[:num_tasks]).double().eval()
        with torch.no_grad():
            for parameter in tower.parameters():
                parameter.normal_(generator=generator)
            x_BD = torch.randn(9, 6, dtype=torch.float64, generator=generator)
            frozen = freeze(tower)
            assert frozen is not None
            found = frozen(torch.addmm(frozen.bias_W, x_BD, frozen.weight_DW))
            assert_close(found, tower(x_BD), rtol=1e-10, atol=1e-10, msg=f"{config}")


def test_a_frozen_tower_shares_nothing_with_the_tower() -> None:
    for config in CONFIGS:
        tower = build_tower(config, in_dim=6, tasks=TASKS).eval()
        frozen, x_1D = freeze(tower), torch.randn(1, 6)
        assert frozen is not None
        before = {name: weight.clone() for name, weight in tower.state_dict().items()}

        def logits(frozen: FrozenTower, x_1D: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return frozen(torch.addmm(frozen.bias_W, x_1D, frozen.weight_DW))

        expected = logits(frozen, x_1D)
        assert_close(logits(frozen, x_1D), expected, rtol=0, atol=0)
        assert_close(tower.state_dict(), before, rtol=0, atol=0)
        with torch.no_grad():
            for weight in tower.parameters():
                weight += 1
        assert_close(logits(frozen, x_1D), expected, rtol=0, atol=0)


def test_a_tower_of_another_kind_has_no_frozen_form() -> None:
    assert freeze(nn.Linear(2, 1)) is None
