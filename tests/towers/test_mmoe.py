from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from recmtl.towers import MMoE, MMoEConfig, SharedBottom, SharedBottomConfig
from tests.reference.mmoe import mmoe_logits
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = ("click", "buy", "add")
SMALL = MMoEConfig(num_experts=4, expert_widths=(5, 4), head_widths=(3,))


@pytest.fixture
def tower() -> MMoE:
    return randomise(MMoE(SMALL, in_dim=3, tasks=TASKS))


@pytest.fixture
def x_BD() -> Tensor:
    return rows(5, 3)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        MMoEConfig(num_experts=1, expert_widths=(4,), head_widths=()),
        MMoEConfig(num_experts=3, expert_widths=(4,), gate_widths=(3,), head_widths=(2, 2)),
        MMoEConfig(num_experts=2, expert_widths=(2, 3, 4), gate_widths=(3, 2), gate_bias=True),
    ],
)
def test_matches_the_equations(config: MMoEConfig, x_BD: Tensor) -> None:
    tower = randomise(MMoE(config, in_dim=3, tasks=TASKS))
    state = tower.state_dict()
    expected_BT = mmoe_logits(state, x_BD, TASKS, num_experts=config.num_experts)
    assert_close(tower(x_BD), expected_BT, rtol=1e-12, atol=1e-12)


def test_gradients_match_finite_differences(tower: MMoE, x_BD: Tensor) -> None:
    assert gradcheck_with_parameters(tower, x_BD)


def test_gradients_of_deep_gates_match_finite_differences(x_BD: Tensor) -> None:
    config = MMoEConfig(
        num_experts=2, expert_widths=(3,), gate_widths=(3,), gate_bias=True, head_widths=()
    )
    assert gradcheck_with_parameters(randomise(MMoE(config, in_dim=3, tasks=TASKS)), x_BD)


def test_expert_order_is_irrelevant(tower: MMoE, x_BD: Tensor) -> None:
    before_BT, order = tower(x_BD), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if name.startswith("experts."):
                weight.copy_(weight[order])
            elif name.startswith("gates."):
                weight.copy_(weight[:, order])
    assert_close(tower(x_BD), before_BT)


def test_one_expert_is_a_shared_bottom(x_BD: Tensor) -> None:
    config = MMoEConfig(num_experts=1, expert_widths=(5, 4), head_widths=(3,))
    tower = randomise(MMoE(config, in_dim=3, tasks=TASKS))
    sizes = SharedBottomConfig(expert_widths=(5, 4), head_widths=(3,))
    bottom = SharedBottom(sizes, in_dim=3, tasks=TASKS).double()
    state = {k: v for k, v in tower.state_dict().items() if not k.startswith("gates.")}
    bottom.load_state_dict(state)
    assert_close(tower.explain(x_BD)["gates/click"], torch.ones(5, 1, dtype=torch.float64))
    assert_close(bottom(x_BD), tower(x_BD))


def test_equal_gates_mix_equally(tower: MMoE, x_BD: Tensor) -> None:
    with torch.no_grad():
        for weight in tower.gates.parameters():
            weight.zero_()
    found = tower.explain(x_BD)
    assert_close(found["gates/buy"], torch.full((5, 4), 0.25, dtype=torch.float64))
    mixed_BH = tower.experts(x_BD).mean(dim=1)
    expected_BT = tower.heads(mixed_BH.unsqueeze(1).expand(-1, 3, -1))
    assert_close(tower(x_BD), expected_BT)


def test_explain_describes_the_experts(tower: MMoE, x_BD: Tensor) -> None:
    found, expert_BEH = tower.explain(x_BD), tower.experts(x_BD)
    for e in range(4):
        values = expert_BEH[:, e].flatten().tolist()
        mean = sum(values) / len(values)
        std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        assert found["experts/mean"][e].item() == pytest.approx(mean)
        assert found["experts/std"][e].item() == pytest.approx(std)
        assert found["experts/zero_share"][e].item() == values.count(0.0) / len(values)


def test_config_rejects_no_experts() -> None:
    with pytest.raises(ValueError, match=r"`num_experts` must be a positive integer, got 0\."):
        MMoEConfig(num_experts=0)


def test_config_rejects_bad_gates() -> None:
    with pytest.raises(ValueError, match=r"`gate_widths` must hold positive integers, got \[-1\]"):
        MMoEConfig(gate_widths=(-1,))
