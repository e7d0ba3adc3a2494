from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from recmtl.towers.expert_bank import ExpertBank
from tests.reference.mlp import expert
from tests.towers.helpers import randomise, rows

TASKS = ("late", "early", "mid")


@pytest.mark.parametrize("widths", [(4,), (5, 4), (2, 3, 4)])
@pytest.mark.parametrize(("num_task", "num_shared"), [(0, 3), (1, 0), (2, 0), (1, 2), (3, 1)])
@pytest.mark.parametrize("own_inputs", [False, True])
def test_each_expert_is_its_own_network(
    widths: tuple[int, ...], num_task: int, num_shared: int, own_inputs: bool
) -> None:
    bank = randomise(
        ExpertBank(
            3,
            widths,
            tasks=TASKS,
            num_task_experts=num_task,
            num_shared_experts=num_shared,
            own_inputs=own_inputs,
        )
    )
    x_BGD = rows(20, 3).view(5, 4, 3)
    out_BEH = bank(x_BGD if own_inputs else x_BGD[:, 0])
    state = {f"experts.{key}": value for key, value in bank.state_dict().items()}
    order = [(task, g, i) for g, task in enumerate(TASKS) for i in range(num_task)]
    order += [(None, 3, i) for i in range(num_shared)]
    assert out_BEH.shape == (5, len(order), 4)
    for e, (owner, g, i) in enumerate(order):
        inputs = x_BGD[:, g if own_inputs else 0].tolist()
        expected = [expert(state, "experts", owner, i, x) for x in inputs]
        expected_BH = torch.tensor(expected, dtype=torch.float64)
        assert_close(out_BEH[:, e], expected_BH, rtol=1e-12, atol=1e-12)


def test_each_expert_starts_within_its_own_fan_in() -> None:
    torch.manual_seed(0)
    bank = ExpertBank(24, (600, 50), num_shared_experts=3)
    weight_EIO, bias_EO = bank.layers[0]()
    bound = math.sqrt(6 / 24)
    assert not bias_EO.any()
    assert weight_EIO.abs().max() <= bound
    for e in range(3):
        assert weight_EIO[e].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not torch.equal(weight_EIO[e], weight_EIO[(e + 1) % 3])
    # He-uniform keeps the mean square of the activations from layer to layer.
    x_BD = torch.randn(512, 24)
    assert bank(x_BD).square().mean().item() == pytest.approx(1.0, rel=0.25)


def test_keys_are_those_of_the_owners() -> None:
    bank = ExpertBank(3, (2,), tasks=("b", "a"), num_task_experts=2, num_shared_experts=1)
    shapes = {key: tuple(value.shape) for key, value in bank.state_dict().items()}
    assert shapes == {
        "layers.0.task_weight.b": (2, 3, 2),
        "layers.0.task_weight.a": (2, 3, 2),
        "layers.0.task_bias.b": (2, 2),
        "layers.0.task_bias.a": (2, 2),
        "layers.0.shared_weight": (1, 3, 2),
        "layers.0.shared_bias": (1, 2),
    }


def test_refs_name_every_part_once() -> None:
    bank = ExpertBank(3, (4, 2), tasks=("b", "a"), num_task_experts=2, num_shared_experts=1)
    refs = list(bank.refs("experts"))
    assert [ref.name for ref in refs] == ["b 1", "b 2", "a 1", "a 2", "shared 1"]
    assert [ref.tasks for ref in refs] == [("b",), ("b",), ("a",), ("a",), ("b", "a")]
    parts = [part for ref in refs for part in ref.parameters]
    sizes = {f"experts.{key}": len(value) for key, value in bank.state_dict().items()}
    assert sorted(parts) == sorted((key, i) for key, size in sizes.items() for i in range(size))


def test_dropout_follows_each_layer_and_is_off_in_eval() -> None:
    torch.manual_seed(0)
    bank = ExpertBank(8, (400,), num_shared_experts=2, dropout=0.25)
    x_BD = torch.randn(64, 8)
    kept_BEH = bank.eval()(x_BD)
    dropped_BEH = bank.train()(x_BD)
    was_active = kept_BEH > 0
    share = (dropped_BEH[was_active] == 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.02)
    still = was_active & (dropped_BEH > 0)
    assert_close(dropped_BEH[still], kept_BEH[still] / 0.75)
