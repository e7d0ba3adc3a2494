from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

from recmtl.towers import PLE, TOWERS, PLEConfig, Tower
from tests.towers.helpers import built, inputs_of

TASKS = ("zeta", "alpha")
every_tower = pytest.mark.parametrize("config", TOWERS, ids=lambda config: config.__name__)


def test_a_tower_without_experts_has_no_refs() -> None:
    tower = Tower(PLEConfig(), in_dim=4, tasks=TASKS)
    assert tower.expert_refs() == ()
    assert tower.width == 4
    assert tower.task_names == TASKS


def test_levels_of_explain() -> None:
    config = PLEConfig(num_levels=2, num_task_experts=1, num_shared_experts=2, expert_widths=(4,))
    found = PLE(config, in_dim=3, tasks=TASKS).explain(torch.randn(5, 3))
    level = ["gates/zeta", "gates/alpha", "experts/mean", "experts/std", "experts/zero_share"]
    expected = {key: (5, 4) if "gates" in key else (4,) for key in level}
    expected |= {f"level_1/{key}": shape for key, shape in expected.items()}
    expected["level_1/shared_gate"] = (5, 4)
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


@every_tower
def test_copies_are_equal_and_independent_pitfall_T10(config: type) -> None:
    tower = built(config, TASKS).eval()
    x = inputs_of(tower, 5)
    for copied in (copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))):
        assert_close(copied(x), tower(x))
        copied.set_base_rates({"zeta": 0.01, "alpha": 0.5})
        assert not torch.equal(copied(x), tower(x))


def _in_half(part: Tensor) -> Tensor:
    return part.bfloat16() if part.is_floating_point() else part


@every_tower
def test_half_precision_stays_near_float32(config: type) -> None:
    torch.manual_seed(0)
    tower = built(config, TASKS)
    x = inputs_of(tower, 5)
    expected_BT = tower(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BT = tower(x)
    logits_BT.float().sum().backward()
    assert all(weight.grad is not None for weight in tower.parameters())
    assert_close(logits_BT.float(), expected_BT, rtol=0.05, atol=0.05)
    half_BT = copy.deepcopy(tower).bfloat16()(tree_map_only(Tensor, _in_half, x))
    assert_close(half_BT.float(), expected_BT, rtol=0.1, atol=0.1)


@pytest.mark.slow
@every_tower
def test_a_compiled_tower_is_the_same(config: type) -> None:
    tower = built(config, TASKS)
    compiled = torch.compile(tower, backend="aot_eager", fullgraph=True, dynamic=True)
    for count in (5, 9):
        x = inputs_of(tower, count)
        tower.zero_grad()
        compiled(x).square().sum().backward()
        gradients = [weight.grad.clone() for weight in tower.parameters()]
        tower.zero_grad()
        logits_BT = tower(x)
        logits_BT.square().sum().backward()
        assert_close(compiled(x), logits_BT)
        for weight, gradient in zip(tower.parameters(), gradients, strict=True):
            assert_close(gradient, weight.grad)


@pytest.mark.gpu
@every_tower
def test_cuda_agrees_with_the_cpu(config: type) -> None:
    tower = built(config, TASKS)
    x = inputs_of(tower, 64)
    expected_BT = tower(x)
    found_BT = tower.cuda()(tree_map_only(Tensor, Tensor.cuda, x)).cpu()
    assert_close(found_BT, expected_BT, rtol=1e-3, atol=1e-3)
