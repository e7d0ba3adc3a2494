from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.towers import CGC, PLE, CGCConfig, MMoE, MMoEConfig, PLEConfig
from tests.reference.ple import ple_logits
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = ("click", "buy", "add")


def small(**sizes: object) -> PLEConfig:
    """Three levels of 2 + 2 experts of one layer."""
    given = {
        "num_levels": 3,
        "num_shared_experts": 2,
        "num_task_experts": 2,
        "expert_widths": (3,),
        "head_widths": (2,),
    }
    return PLEConfig(**(given | sizes))


@pytest.mark.parametrize(
    "config",
    [
        small(),
        small(num_levels=1),
        small(num_levels=2, expert_widths=(4, 3), head_widths=()),
        small(num_task_experts=1, num_shared_experts=3),
        small(num_task_experts=3, num_shared_experts=1, gate_widths=(2,)),
        small(num_task_experts=0),
        small(num_shared_experts=0),
        small(gate_widths=(3, 2), gate_bias=True),
        small(gate_bias=True),
    ],
)
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_matches_the_equations(config: PLEConfig, num_tasks: int) -> None:
    tasks = TASKS[:num_tasks]
    tower, x_BD = randomise(PLE(config, in_dim=4, tasks=tasks)), rows(5, 4)
    expected_BT = ple_logits(
        tower.state_dict(),
        x_BD,
        tasks,
        levels=[f"levels.{j}" for j in range(config.num_levels)],
        num_task_experts=config.num_task_experts,
        num_shared_experts=config.num_shared_experts,
    )
    assert_close(tower(x_BD), expected_BT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        small(num_task_experts=1, expert_widths=(2,)),
        small(num_levels=2, gate_widths=(1,), gate_bias=True, num_shared_experts=1),
    ],
)
def test_gradients_match_finite_differences(config: PLEConfig) -> None:
    tower = randomise(PLE(config, in_dim=2, tasks=TASKS[:2]))
    assert gradcheck_with_parameters(tower, rows(3, 2))


def test_one_level_is_cgc() -> None:
    tower = randomise(PLE(small(num_levels=1), in_dim=3, tasks=TASKS))
    sizes = CGCConfig(
        num_shared_experts=2, num_task_experts=2, expert_widths=(3,), head_widths=(2,)
    )
    cgc = CGC(sizes, in_dim=3, tasks=TASKS).double()
    cgc.load_state_dict(
        {k.replace("levels.0.", "level."): v for k, v in tower.state_dict().items()}
    )
    assert_close(cgc(rows(5, 3)), tower(rows(5, 3)))


def test_one_level_without_task_experts_is_mmoe() -> None:
    tower = randomise(PLE(small(num_levels=1, num_task_experts=0), in_dim=3, tasks=TASKS))
    sizes = MMoEConfig(num_experts=2, expert_widths=(3,), head_widths=(2,))
    mmoe = MMoE(sizes, in_dim=3, tasks=TASKS).double()
    mmoe.load_state_dict({k.removeprefix("levels.0."): v for k, v in tower.state_dict().items()})
    assert_close(mmoe(rows(5, 3)), tower(rows(5, 3)))


def test_a_tasks_loss_reaches_the_experts_of_others_below_the_top_level() -> None:
    tower = randomise(PLE(small(num_levels=2), in_dim=3, tasks=TASKS))
    tower(rows(16, 3))[:, 0].sum().backward()

    def is_reached(key: str) -> bool:
        weight = tower.get_parameter(key)
        return weight.grad is not None and bool(weight.grad.any())

    assert is_reached("levels.0.experts.layers.0.task_weight.buy")
    assert not is_reached("levels.1.experts.layers.0.task_weight.buy")
    assert is_reached("levels.1.experts.layers.0.shared_weight")


def test_without_shared_experts_tasks_are_independent() -> None:
    tower = randomise(PLE(small(num_shared_experts=0), in_dim=3, tasks=TASKS))
    tower(rows(16, 3))[:, 0].sum().backward()
    for name, weight in tower.named_parameters():
        if name.endswith((".buy", ".add")):
            assert weight.grad is None or not weight.grad.any(), name


def test_shared_gate_covers_all_experts_pitfall_T03() -> None:
    tower = randomise(PLE(small(num_levels=2, num_task_experts=3), in_dim=3, tasks=TASKS))
    found = tower.explain(rows(6, 3))
    gate_BE = found["level_1/shared_gate"]
    assert gate_BE.shape == (6, 3 * 3 + 2)
    assert_close(gate_BE.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert "shared_gate" not in found
    gate = tower.levels[0].gates
    tower(rows(16, 3)).sum().backward()
    for name, weight in gate.shared.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.any(), name
    for task in TASKS:
        weight = tower.levels[0].experts.layers[0].task_weight[task]
        assert all(part.any() for part in weight.grad), task


def test_gates_read_the_input_of_their_level() -> None:
    tower, x_BD = randomise(PLE(small(num_levels=2), in_dim=3, tasks=TASKS)), rows(5, 3)
    assert tower.levels[0].gates.task.task_weight["buy"].shape == (3, 4)
    stream_BGH = tower.levels[0](x_BD)
    assert stream_BGH.shape == (5, 4, 3)
    weight = tower.levels[1].gates.task.task_weight["buy"]
    expected_BN = (stream_BGH[:, 1] @ weight).softmax(dim=-1)
    gate_BE = tower.explain(x_BD)["gates/buy"]
    assert_close(gate_BE[:, [2, 3, 6, 7]], expected_BN.detach())


def test_config_rejects_no_levels() -> None:
    with pytest.raises(ValueError, match=r"`num_levels` must be a positive integer, got 0\."):
        PLEConfig(num_levels=0)
