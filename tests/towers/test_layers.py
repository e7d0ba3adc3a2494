from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from recmtl.towers import TaskSlot
from recmtl.towers.layers import GateBank, HeadBank
from tests.reference.mlp import expert, gate, head
from tests.reference.ple import shared_gate
from tests.towers.helpers import randomise, rows

TASKS = ("late", "early", "mid")


@pytest.mark.parametrize("own_inputs", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(), (3,)])
@pytest.mark.parametrize(("num_task", "num_shared"), [(2, 3), (1, 1), (0, 2), (2, 0)])
def test_gates_weigh_own_then_shared_experts(
    num_task: int, num_shared: int, widths: tuple[int, ...], bias: bool, own_inputs: bool
) -> None:
    gates = randomise(
        GateBank(
            TASKS,
            4,
            num_task_experts=num_task,
            num_shared_experts=num_shared,
            widths=widths,
            bias=bias,
            shared_gate=num_shared > 0,
            own_inputs=own_inputs,
        )
    )
    x_BGD = rows(20, 4).view(5, 4, 4)
    weight_BGE = gates(x_BGD if own_inputs else x_BGD[:, 0])
    state = {f"gates.{key}": value for key, value in gates.state_dict().items()}
    shape = (5, 3 + (num_shared > 0), 3 * num_task + num_shared)
    expected_BGE = torch.zeros(shape, dtype=torch.float64)
    for b in range(5):
        for t, task in enumerate(TASKS):
            x = x_BGD[b, t if own_inputs else 0].tolist()
            weights = gate(state, "gates", task, x)
            for i in range(num_task):
                expected_BGE[b, t, t * num_task + i] = weights[i]
            for i in range(num_shared):
                expected_BGE[b, t, 3 * num_task + i] = weights[num_task + i]
        if num_shared:
            x = x_BGD[b, 3 if own_inputs else 0].tolist()
            for e, weight in enumerate(shared_gate(state, "gates", TASKS, x)):
                expected_BGE[b, 3, e] = weight
    assert_close(weight_BGE, expected_BGE, rtol=1e-12, atol=1e-12)


def test_gates_of_other_tasks_experts_are_exactly_zero() -> None:
    gates = GateBank(("a", "b"), 4, num_task_experts=2, num_shared_experts=1)
    weight_BGE = gates(100 * torch.randn(6, 4))
    assert not weight_BGE[:, 0, 2:4].any()
    assert not weight_BGE[:, 1, 0:2].any()


@pytest.mark.parametrize("outputs", [(1, 1, 1), (2, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("widths", [(), (3,), (4, 3)])
@pytest.mark.parametrize("own_inputs", [False, True])
def test_each_head_is_its_own_network(
    outputs: tuple[int, ...], widths: tuple[int, ...], own_inputs: bool
) -> None:
    slots = tuple(TaskSlot(task, outputs=n) for task, n in zip(TASKS, outputs, strict=True))
    heads = randomise(HeadBank(slots, 4, widths, own_inputs=own_inputs))
    x_BTD = rows(15, 4).view(5, 3, 4)
    state = {f"heads.{key}": value for key, value in heads.state_dict().items()}
    expected = []
    for x_TD in x_BTD.tolist():
        row = []
        for t, task in enumerate(TASKS):
            row += head(state, task, x_TD[t if own_inputs else 0])
        expected.append(row)
    logits_BO = heads(x_BTD if own_inputs else x_BTD[:, 0])
    assert_close(logits_BO, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_reference_of_heads_has_hidden_layers() -> None:
    heads = randomise(HeadBank((TaskSlot("a"),), 4, (3,)))
    state = {f"heads.{key}": value for key, value in heads.state_dict().items()}
    assert len(expert(state, "heads.hidden", "a", 0, [1.0, 2.0, 3.0, 4.0])) == 3


def test_base_rates_are_the_last_biases() -> None:
    heads = HeadBank((TaskSlot("a"), TaskSlot("b"), TaskSlot("stars", outputs=3)), 4)
    heads.set_base_rates({"b": 0.02, "a": 0.0})
    assert heads.last.task_bias["b"].item() == pytest.approx(math.log(0.02 / 0.98))
    assert heads.last.task_bias["a"].item() == pytest.approx(math.log(1e-6 / (1 - 1e-6)))
    assert heads.last.task_bias["stars"].tolist() == [0.0, 0.0, 0.0]
    heads.set_base_rates({"a": 1.0})
    assert torch.sigmoid(heads.last.task_bias["a"].double()).item() == pytest.approx(1 - 1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_lies_between_0_and_1(rate: float) -> None:
    heads = HeadBank((TaskSlot("a"),), 4)
    with pytest.raises(ValueError, match="base rate of task `a` must lie between 0 and 1, got"):
        heads.set_base_rates({"a": rate})


def test_class_rates_are_the_logarithms_in_the_last_biases() -> None:
    heads = HeadBank((TaskSlot("a"), TaskSlot("stars", outputs=3)), 4)
    heads.set_base_rates({"a": 0.5, "stars": (0.2, 0.8, 0.0)})
    expected = [math.log(0.2), math.log(0.8), math.log(1e-6)]
    assert heads.last.task_bias["stars"].tolist() == pytest.approx(expected)
    assert heads.last.task_bias["a"].item() == 0.0


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"stars": (0.5, 0.5)}, "task `stars` has 3 logits, got base rates for 2."),
        ({"a": (1.0,)}, r"task `a` has one logit; its base rate is one number, got \[1\.0\]\."),
        ({"stars": (0.5, 0.6, 0.2)}, r"of task `stars` must lie .* add up to 1, got \[0\.5, 0\.6"),
        ({"stars": (1.5, -0.5, 0.0)}, "of task `stars` must lie between 0 and 1 and add up to 1"),
        ({"stars": (math.nan, 0.5, 0.5)}, "of task `stars` must lie between 0 and 1 and add"),
    ],
)
def test_wrong_class_rates_are_refused(rates: dict, message: str) -> None:
    heads = HeadBank((TaskSlot("a"), TaskSlot("stars", outputs=3)), 4)
    with pytest.raises(ValueError, match=message):
        heads.set_base_rates(rates)


def test_wrong_base_rates_are_refused_together_and_change_nothing() -> None:
    heads = HeadBank((TaskSlot("click"), TaskSlot("stars", outputs=3)), 4)
    with pytest.raises(ValueError, match=r"unknown task `clik`; tasks are `click`, `stars`\.") as e:
        heads.set_base_rates({"click": 0.1, "clik": 0.1, "stars": 0.1})
    assert "Did you mean `click`?" in str(e.value)
    assert "task `stars` has 3 logits and needs a base rate for each." in str(e.value)
    assert heads.last.task_bias["click"].item() == 0.0
