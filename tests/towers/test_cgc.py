from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from recmtl.towers import CGC, CGCConfig, MMoE, MMoEConfig
from tests.reference.ple import ple_logits
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = ("click", "buy", "add")
SMALL = CGCConfig(num_shared_experts=2, num_task_experts=3, expert_widths=(4, 3), head_widths=(2,))


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        CGCConfig(num_shared_experts=0, num_task_experts=2, expert_widths=(3,), head_widths=()),
        CGCConfig(num_shared_experts=2, num_task_experts=0, expert_widths=(3,), head_widths=(2,)),
        CGCConfig(num_shared_experts=1, num_task_experts=1, expert_widths=(3,), gate_widths=(2,)),
        CGCConfig(expert_widths=(3,), gate_widths=(2, 2), gate_bias=True, head_widths=(2,)),
    ],
)
def test_matches_the_equations(config: CGCConfig) -> None:
    tower, x_BD = randomise(CGC(config, in_dim=3, tasks=TASKS)), rows(5, 3)
    expected_BT = ple_logits(
        tower.state_dict(),
        x_BD,
        TASKS,
        levels=["level"],
        num_task_experts=config.num_task_experts,
        num_shared_experts=config.num_shared_experts,
    )
    assert_close(tower(x_BD), expected_BT, rtol=1e-12, atol=1e-12)


def test_gradients_match_finite_differences() -> None:
    assert gradcheck_with_parameters(randomise(CGC(SMALL, in_dim=3, tasks=TASKS)), rows(4, 3))


def test_without_task_experts_it_is_mmoe() -> None:
    config = CGCConfig(
        num_shared_experts=3, num_task_experts=0, expert_widths=(4,), head_widths=(2,)
    )
    tower = randomise(CGC(config, in_dim=3, tasks=TASKS))
    sizes = MMoEConfig(num_experts=3, expert_widths=(4,), head_widths=(2,))
    mmoe = MMoE(sizes, in_dim=3, tasks=TASKS).double()
    mmoe.load_state_dict({k.removeprefix("level."): v for k, v in tower.state_dict().items()})
    assert_close(mmoe(rows(5, 3)), tower(rows(5, 3)))


def test_a_task_has_no_gradient_in_the_experts_of_another() -> None:
    tower = randomise(CGC(SMALL, in_dim=3, tasks=TASKS))
    tower(rows(8, 3))[:, 0].sum().backward()
    for name, weight in tower.named_parameters():
        is_mine = weight.grad is not None and bool(weight.grad.any())
        assert is_mine == (not name.endswith((".buy", ".add"))), name


def test_order_of_a_tasks_own_experts_is_irrelevant() -> None:
    tower, x_BD = randomise(CGC(SMALL, in_dim=3, tasks=TASKS)), rows(5, 3)
    before_BT, order = tower(x_BD), torch.tensor([2, 0, 1])
    with torch.no_grad():
        for name, weight in tower.named_parameters():
            if name.startswith("level.experts.") and name.endswith(".buy"):
                weight.copy_(weight[order])
            elif name.startswith("level.gates.") and name.endswith(".buy"):
                weight[:, :3] = weight[:, order]  # own experts come first, then the shared ones
    assert_close(tower(x_BD), before_BT)


def test_explain_gives_no_weight_to_the_experts_of_others() -> None:
    tower = randomise(CGC(SMALL, in_dim=3, tasks=TASKS))
    gate_BE = tower.explain(rows(5, 3))["gates/buy"]
    assert gate_BE.shape == (5, 3 * 3 + 2)
    names = [ref.name for ref in tower.expert_refs()]
    read = {name for name, is_read in zip(names, (gate_BE > 0).all(dim=0), strict=True) if is_read}
    assert read == {"buy 1", "buy 2", "buy 3", "shared 1", "shared 2"}
    unread = [i for i, name in enumerate(names) if name not in read]
    assert not gate_BE[:, unread].any()


def test_config_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"`num_task_experts` must be an integer of at least 0"):
        CGCConfig(num_task_experts=-1)
    with pytest.raises(ValueError, match=r"`num_shared_experts` and `num_task_experts` are both 0"):
        CGCConfig(num_task_experts=0, num_shared_experts=0)
