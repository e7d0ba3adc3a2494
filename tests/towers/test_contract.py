"""What every registered tower promises, and the symmetries that all of them have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from recmtl.testing import assert_tower_ok
from recmtl.towers import (
    TOWERS,
    CGCConfig,
    ESMMConfig,
    HoMEConfig,
    InputDims,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    TaskSlot,
    build_tower,
)

VECTOR_TOWERS = [config for config, tower in TOWERS.items() if not tower.requires]
"""Those that read one vector a row; the others have tests of their own."""
every_vector_tower = pytest.mark.parametrize(
    "config", VECTOR_TOWERS, ids=lambda config: config.__name__
)
THREE = ("click", TaskSlot("stars", outputs=3), "buy")
UNUSUAL = [
    SharedBottomConfig(expert_widths=(8,), head_widths=()),
    MMoEConfig(gate_widths=(8,), gate_bias=True, dropout=0.2, head_widths=(8, 8)),
    CGCConfig(num_task_experts=0, dropout=0.1),
    CGCConfig(num_shared_experts=0, num_task_experts=1),
    PLEConfig(num_levels=3, gate_widths=(8,), dropout=0.1),
    PLEConfig(num_shared_experts=0),
    ESMMConfig(head_widths=(), dropout=0.5),
]


@every_vector_tower
def test_contract_pitfall_T01_T02_T03_T04_T05_T06_T07_T08_T09_T10_T11_T12(config: type) -> None:
    results = assert_tower_ok(build_tower(config(), in_dim=6, tasks=THREE))
    skipped = {name for name, result in results.items() if result != "passed"}
    levels, gates = (
        {"check_shared_gate", "check_every_level_is_alive"},
        {
            "check_gates",
            "check_gates_are_parameters",
        },
    )
    expected = {
        SharedBottomConfig: levels | gates,
        MMoEConfig: levels,
        CGCConfig: levels,
        PLEConfig: set(),
        ESMMConfig: levels | gates,
        HoMEConfig: {"check_every_level_is_alive"},
    }
    assert skipped == expected[config]


@pytest.mark.slow
@pytest.mark.parametrize("config", UNUSUAL, ids=repr)
def test_contract_of_unusual_sizes(config: Any) -> None:
    slots = (TaskSlot("stars", outputs=3), TaskSlot("click"))
    assert_tower_ok(build_tower(config, in_dim=InputDims(x=6), tasks=slots))


@every_vector_tower
def test_arguments_are_kept(config: type) -> None:
    slots = (TaskSlot("stars", outputs=3), TaskSlot("click"))
    tower = build_tower(config(), in_dim=InputDims(x=6), tasks=slots)
    assert tower.tasks == slots
    assert tower.in_dim == InputDims(x=6)
    assert tower.requires == frozenset()
    assert tower(torch.zeros(2, 6)).shape == (2, 4)


@every_vector_tower
def test_base_rates_are_what_an_untrained_tower_predicts_for_an_empty_row(config: type) -> None:
    tower = build_tower(config(), in_dim=6, tasks=("click", "buy"))
    tower.set_base_rates({"buy": 0.003, "click": 0.1})
    probs_BT = tower(torch.zeros(1, 6)).sigmoid()
    assert_close(probs_BT, torch.tensor([[0.1, 0.003]]), rtol=1e-5, atol=1e-7)


@every_vector_tower
def test_class_rates_are_what_it_predicts_for_an_empty_row(config: type) -> None:
    tower = build_tower(config(), in_dim=6, tasks=THREE)
    tower.set_base_rates({"stars": (0.7, 0.3, 0.0), "buy": 0.25})
    logits_BO = tower(torch.zeros(1, 6))
    assert_close(logits_BO[:, 1:4].softmax(1), torch.tensor([[0.7, 0.3, 1e-6]]), rtol=1e-5, atol=0)
    assert_close(logits_BO[:, 4].sigmoid(), torch.tensor([0.25]))


@every_vector_tower
def test_a_task_can_be_added_to_a_trained_tower(config: type) -> None:
    tower = build_tower(config(), in_dim=6, tasks=("click", "buy"))
    wider = build_tower(config(), in_dim=6, tasks=("buy", "add", "click"))
    missing, unexpected = wider.load_state_dict(tower.state_dict(), strict=False)
    assert unexpected == []
    assert all(key.split(".")[-1] == "add" for key in missing)


@every_vector_tower
def test_tasks_keep_the_order_given_not_the_alphabet_pitfall_T11(config: type) -> None:
    tower = build_tower(config(), in_dim=6, tasks=("zeta", "alpha"))
    tower.set_base_rates({"zeta": 0.9, "alpha": 0.1})
    assert_close(tower(torch.zeros(1, 6)).sigmoid(), torch.tensor([[0.9, 0.1]]))


@every_vector_tower
def test_a_known_function_is_learned(config: type) -> None:
    torch.manual_seed(0)
    sizes = {"head_widths": (16,)} if config is ESMMConfig else {"expert_widths": (16,)}
    tower = build_tower(config(**sizes), in_dim=6, tasks=("sum", "product"))
    x_BD = torch.randn(512, 6)
    target_BT = torch.stack([x_BD[:, 0] + x_BD[:, 1] > 0, x_BD[:, 0] * x_BD[:, 1] > 0], 1).float()
    optimizer = torch.optim.Adam(tower.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(tower(x_BD), target_BT)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2
    is_right_BT = (tower(x_BD) > 0) == target_BT.bool()
    assert is_right_BT.float().mean().item() > 0.95


def test_unknown_config_is_refused() -> None:
    with pytest.raises(ValueError, match="`dict` is no config of a registered tower: `SharedBott"):
        build_tower({"kind": "mmoe"}, in_dim=6, tasks=("click",))


def test_kinds_are_file_names() -> None:
    folder = Path(sys.modules["recmtl.towers"].__file__).parent
    for config, tower in TOWERS.items():
        assert (folder / f"{config().kind}.py").exists()
        assert tower.__module__ == f"recmtl.towers.{config().kind}"
