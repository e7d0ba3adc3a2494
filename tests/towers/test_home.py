from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from recmtl.testing import assert_tower_ok
from recmtl.towers import HoME, HoMEConfig, TaskSlot
from tests.reference.home import home_logits
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = (
    TaskSlot("click", group="act"),
    TaskSlot("stay", group="watch", outputs=2),
    TaskSlot("buy", group="act"),
    TaskSlot("skip", group="watch"),
)


def small(**sizes: Any) -> HoMEConfig:
    """Two experts of one narrow layer everywhere."""
    given = {
        "num_task_experts": 2,
        "expert_widths": (3,),
        "feature_gate_rank": 2,
        "head_widths": (2,),
    }
    return HoMEConfig(**(given | sizes))


@pytest.mark.parametrize(
    "config",
    [
        small(),
        small(num_task_experts=1, num_group_experts=1, num_shared_experts=1),
        small(num_task_experts=3, num_group_experts=1, num_shared_experts=2),
        small(expert_widths=(4, 3), head_widths=()),
        small(num_feature_gate_parts=1),
        small(num_feature_gate_parts=3, feature_gate_rank=None),
        small(feature_gates=False),
        small(self_gates=False),
        small(hierarchy=False),
        small(norm="none"),
        small(activation="relu"),
        small(norm="none", activation="relu", feature_gates=False, self_gates=False),
        small(norm="none", activation="relu", expert_widths=(4, 3), hierarchy=False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("num_tasks", [1, 4])
def test_matches_the_equations(config: HoMEConfig, num_tasks: int) -> None:
    tasks = TASKS[:num_tasks]
    tower, x_BD = randomise(HoME(config, in_dim=4, tasks=tasks)), rows(5, 4)
    named = [(slot.name, slot.group) for slot in tasks]
    expected_BO = home_logits(tower.state_dict(), x_BD, named, config)
    assert_close(tower(x_BD), expected_BO, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "config",
    [
        small(num_task_experts=1, num_group_experts=1, expert_widths=(2,)),
        small(hierarchy=False, num_feature_gate_parts=1, expert_widths=(2,)),
        small(norm="batch", num_group_experts=1, num_task_experts=1, expert_widths=(2,)),
    ],
    ids=repr,
)
def test_gradients_match_finite_differences(config: HoMEConfig) -> None:
    tower = randomise(HoME(config, in_dim=2, tasks=TASKS[:2]))
    assert gradcheck_with_parameters(tower, rows(3, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        HoMEConfig(hierarchy=False, dropout=0.1, expert_widths=(16, 8)),
        HoMEConfig(feature_gates=False, num_task_experts=3, head_widths=(), expert_widths=(16, 8)),
        HoMEConfig(self_gates=False, norm="none", activation="relu", expert_widths=(8,)),
        HoMEConfig(num_feature_gate_parts=1, feature_gate_rank=3, expert_widths=(16, 8)),
    ],
    ids=repr,
)
def test_contract_of_switches(config: HoMEConfig) -> None:
    assert_tower_ok(HoME(config, in_dim=6, tasks=TASKS))


def test_starts_as_if_it_had_no_feature_gates() -> None:
    with_gates = HoME(small(), in_dim=4, tasks=TASKS).double()
    without = HoME(small(feature_gates=False), in_dim=4, tasks=TASKS).double()
    missing, unexpected = without.load_state_dict(with_gates.state_dict(), strict=False)
    assert missing == []
    assert all("features." in key for key in unexpected)
    assert_close(with_gates(rows(5, 4)), without(rows(5, 4)), rtol=1e-12, atol=1e-12)


def test_gates_start_equal_and_never_weigh_another_group() -> None:
    tower, x_BD = HoME(small(), in_dim=4, tasks=TASKS).double(), rows(6, 4)
    found = tower.explain(x_BD)
    tasks = [ref.tasks for ref in tower.expert_refs() if ref.level == 2]
    for slot in TASKS:
        is_read_E = torch.tensor([slot.name in served for served in tasks])
        gate_BE = found[f"gates/{slot.name}"]
        assert_close(gate_BE[:, is_read_E], torch.full_like(gate_BE[:, is_read_E], 1 / 6))
        assert not randomise(tower).explain(x_BD)[f"gates/{slot.name}"][:, ~is_read_E].any()
    by_group = randomise(tower).explain(x_BD)["level_1/gates/watch"]
    assert not by_group[:, :2].any()  # the experts of `act`
    assert (by_group[:, 2:] > 0).all()
    everywhere = randomise(HoME(small(hierarchy=False), in_dim=4, tasks=TASKS)).explain(x_BD)
    assert (everywhere["level_1/gates/watch"] > 0).all()
    assert_close(everywhere["gates/click"].count_nonzero(1), torch.full((6,), 2 + 2 * 2 + 2))


def test_other_groups_reach_a_task_through_the_shared_block_alone() -> None:
    tower = randomise(HoME(small(), in_dim=4, tasks=TASKS))
    z_BGH = tower.first_level(rows(5, 4)).detach().requires_grad_()
    stay = 1
    (grad_BGH,) = torch.autograd.grad(tower.heads(tower._mixed(z_BGH))[:, stay].sum(), z_BGH)
    assert tower.groups == ("act", "watch")
    assert not grad_BGH[:, 0].any()
    assert grad_BGH[:, 1].any()
    assert grad_BGH[:, 2].any()
    tower(rows(5, 4))[:, stay].sum().backward()
    for name, weight in tower.named_parameters():
        if name.startswith(("group_", "task_", "gates.", "self_gates.")) and name.endswith(".act"):
            assert weight.grad is None or not weight.grad.any(), name


def test_order_of_groups_does_not_matter_pitfall_T11() -> None:
    tower = randomise(HoME(small(), in_dim=4, tasks=TASKS))
    other = HoME(small(), in_dim=4, tasks=TASKS[::-1]).double()
    other.load_state_dict(tower.state_dict())
    logits_BO = tower(rows(5, 4))
    assert_close(other(rows(5, 4)), logits_BO[:, [4, 3, 1, 2, 0]])


def test_batch_norm_follows_the_rows_and_is_kept() -> None:
    tower = HoME(small(norm="batch"), in_dim=4, tasks=TASKS).double()
    x_BD = rows(64, 4) * 3.0 + 1.0
    layer, norm = tower.first_level.experts.layers[0], tower.first_level.experts.norms[0]
    weight_EIO, bias_EO = layer()
    u_BD = x_BD  # feature gates start at 1
    products_EBO = torch.einsum("bi,eio->ebo", u_BD, weight_EIO) + bias_EO.unsqueeze(1)
    out_BEO = tower.first_level.experts(x_BD.unsqueeze(1).expand(-1, 3, -1))
    normal_EBO = (products_EBO - products_EBO.mean(1, keepdim=True)) / (
        products_EBO.var(1, keepdim=True, correction=0) + 1e-5
    ).sqrt()
    assert_close(out_BEO, torch.nn.functional.silu(normal_EBO).transpose(0, 1))
    assert_close(norm.mean.all(), 0.1 * products_EBO.mean(1))
    assert_close(norm.var.all(), 0.9 + 0.1 * products_EBO.var(1, correction=0))
    for _ in range(200):
        tower(x_BD)
    assert_close(tower.eval()(x_BD), tower.train()(x_BD), rtol=1e-6, atol=1e-6)
    again = HoME(small(norm="batch"), in_dim=4, tasks=TASKS).double().eval()
    again.load_state_dict(tower.state_dict())
    assert_close(again(x_BD[:3]), tower.eval()(x_BD)[:3])


def test_experts_of_equal_spread_whatever_the_scale_of_their_weights() -> None:
    tower, x_BD = HoME(small(expert_widths=(16,)), in_dim=4, tasks=TASKS).double(), rows(200, 4)
    with torch.no_grad():
        for weight in tower.first_level.experts.layers[0].task_weight.values():
            weight[0] *= 100
    std_E = tower.explain(x_BD)["level_1/experts/std"]
    assert float(std_E.max() / std_E.min()) < 1.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_group_experts": 0}, "`num_group_experts` must be a positive integer, got 0"),
        ({"feature_gate_rank": 0}, "`feature_gate_rank` must be a positive integer, got 0"),
        ({"norm": "instance"}, "`norm` must be one of `layer`, `batch`, `none`, got 'instance'"),
        ({"activation": "gelu"}, "`activation` must be one of `swish`, `relu`, got 'gelu'"),
        ({"expert_widths": ()}, "`expert_widths`"),
        ({"expert_widths": (8, 1)}, "`expert_widths` must be at least 2 each where `norm`"),
    ],
)
def test_config_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HoMEConfig(**wrong)


def test_a_group_needs_a_usable_name() -> None:
    with pytest.raises(ValueError, match="group name 'a b' must be an identifier"):
        HoME(small(), in_dim=4, tasks=(TaskSlot("click", group="a b"),))


def test_parts_of_rows_change_nothing() -> None:
    tower, x_BD = randomise(HoME(small(), in_dim=4, tasks=TASKS)), rows(10, 4)
    whole_BO = tower(x_BD)
    whole_BO.sin().sum().backward()
    grads = {name: weight.grad.clone() for name, weight in tower.named_parameters()}
    tower.zero_grad()
    tower._part_rows = 3
    parts_BO = tower(x_BD)
    assert_close(parts_BO, whole_BO, rtol=1e-12, atol=1e-12)
    parts_BO.sin().sum().backward()
    for name, weight in tower.named_parameters():
        assert_close(weight.grad, grads[name], rtol=1e-10, atol=1e-12)


def test_groups_of_unequal_size() -> None:
    tasks = (*TASKS[:3], TaskSlot("share", group="act"))
    tower, x_BD = randomise(HoME(small(), in_dim=4, tasks=tasks)), rows(5, 4)
    named = [(slot.name, slot.group) for slot in tasks]
    expected_BO = home_logits(tower.state_dict(), x_BD, named, small())
    assert_close(tower(x_BD), expected_BO, rtol=1e-11, atol=1e-11)


def test_a_hook_sees_whole_batches() -> None:
    tower, x_BD = randomise(HoME(small(), in_dim=4, tasks=TASKS)), rows(10, 4)
    tower._part_rows = 3
    seen = []
    handle = tower.heads.register_forward_hook(lambda _m, given, _out: seen.append(len(given[0])))
    tower(x_BD)
    handle.remove()
    tower(x_BD)
    assert seen == [10]
