"""The hand-written form against autograd's: same values, same gradients, wherever it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from recmtl.testing import assert_tower_ok
from recmtl.towers import (
    CGCConfig,
    ESMMConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    TaskSlot,
    build_tower,
    chunked,
)
from recmtl.towers.expert_bank import ExpertBank
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

CONFIGS = [
    MMoEConfig(num_experts=3, expert_widths=(4, 3), head_widths=(2,)),
    MMoEConfig(num_experts=3, expert_widths=(4,), gate_bias=True, head_widths=()),
    MMoEConfig(num_experts=3, expert_widths=(4, 3), gate_widths=(2,), head_widths=(3, 2)),
    CGCConfig(num_shared_experts=2, num_task_experts=1, expert_widths=(4, 3), head_widths=(2,)),
    PLEConfig(num_levels=3, num_shared_experts=2, expert_widths=(4, 2, 3), head_widths=(2,)),
    PLEConfig(num_task_experts=0, expert_widths=(4, 3), head_widths=(2,)),
    PLEConfig(num_shared_experts=0, expert_widths=(4,), gate_bias=True, head_widths=(2,)),
    ESMMConfig(head_widths=(4, 3)),
    ESMMConfig(head_widths=(4,)),
    SharedBottomConfig(expert_widths=(4, 3), head_widths=(2,)),
]
TASKS = ("click", "like", "buy")


def cut(patch: pytest.MonkeyPatch, most: int) -> None:
    """From here on all is computed by hand, in chunks of at most so many rows."""
    patch.setattr(chunked, "_CHUNK_FLOATS", 0)
    patch.setattr(chunked, "_LEAST_ROWS", most)


def values_and_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Values, then the gradients of the input and of every parameter for unequal weights."""
    x = x.clone().requires_grad_()
    out = module(x)
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
    inputs = [x, *module.parameters()]
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize("tasks", [TASKS, TASKS[:1], (TaskSlot("stars", outputs=3), "buy")])
def test_equals_the_plain_form(
    config: Any, tasks: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = randomise(build_tower(config, in_dim=5, tasks=tasks))
    for num_rows in (0, 1, 7, 24):
        x_BD = rows(num_rows, 5)
        expected = values_and_gradients(tower, x_BD)
        for most in (1, 6, 8, 100):
            with monkeypatch.context() as patch:
                cut(patch, most)
                found = values_and_gradients(tower, x_BD)
                with torch.no_grad():
                    found.append(tower(x_BD))
            for one, other in zip(found, [*expected, expected[0]], strict=True):
                assert_close(one, other, rtol=1e-12, atol=1e-12)


SMALL = PLEConfig(num_shared_experts=1, num_task_experts=1, expert_widths=(2, 2), head_widths=())


@pytest.mark.parametrize("config", [CONFIGS[1], SMALL, CONFIGS[7]], ids=repr)
def test_gradients_match_finite_differences(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 2)
    tower = randomise(build_tower(config, in_dim=3, tasks=TASKS[:2]))
    assert gradcheck_with_parameters(tower, rows(3, 3))


def test_gradients_have_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = randomise(build_tower(CONFIGS[4], in_dim=3, tasks=TASKS))

    def penalty_gradients() -> tuple[Tensor, ...]:
        x_BD = rows(5, 3).requires_grad_()
        (slope_BD,) = torch.autograd.grad(tower(x_BD).square().sum(), x_BD, create_graph=True)
        return torch.autograd.grad(slope_BD.square().sum(), list(tower.parameters()))

    expected = penalty_gradients()
    cut(monkeypatch, 2)
    assert_close(penalty_gradients(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4], CONFIGS[7]], ids=repr)
def test_gradients_in_batches(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 2)
    tower = randomise(build_tower(config, in_dim=3, tasks=TASKS))
    x_BD = rows(5, 3).requires_grad_()
    inputs = [x_BD, *tower.parameters()]
    logits_O = tower(x_BD).sum(dim=0)
    one_by_one = [torch.autograd.grad(one, inputs, retain_graph=True) for one in logits_O]
    eye_OO = torch.eye(len(logits_O), dtype=torch.float64)
    found = torch.autograd.grad(logits_O, inputs, eye_OO, is_grads_batched=True)
    expected = tuple(torch.stack(each) for each in zip(*one_by_one, strict=True))
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own_inputs", [False, True])
@pytest.mark.parametrize(("num_task", "num_shared"), [(0, 2), (2, 0), (1, 2)])
def test_experts_alone_equal_the_plain_form(
    num_task: int, num_shared: int, own_inputs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = randomise(
        ExpertBank(
            3,
            (4, 2),
            tasks=TASKS,
            num_task_experts=num_task,
            num_shared_experts=num_shared,
            own_inputs=own_inputs,
        )
    )
    x_BGD = rows(28, 3).view(7, 4, 3)
    x = x_BGD if own_inputs else x_BGD[:, 0]
    expected = values_and_gradients(bank, x)
    cut(monkeypatch, 3)
    for one, other in zip(values_and_gradients(bank, x), expected, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("own_inputs", [False, True])
def test_only_what_needs_a_gradient_gets_one(
    own_inputs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = randomise(ExpertBank(3, (4, 2), tasks=TASKS, num_task_experts=1, own_inputs=own_inputs))
    for name in ("task_weight", "task_bias"):
        getattr(bank.layers[0], name)["like"].requires_grad_(False)
    bank.layers[1].requires_grad_(False)
    # The last input is nobody's: there are no shared experts.
    x = rows(20, 3).view(5, 4, 3) if own_inputs else rows(5, 3)

    def gradients() -> list[Tensor | None]:
        bank.zero_grad()
        bank(x).square().sum().backward()
        return [weight.grad for weight in bank.parameters()]

    expected = gradients()
    assert [found is None for found in expected] == [False, True, False] * 2 + [True] * 6
    cut(monkeypatch, 2)
    assert_close(gradients(), expected, rtol=1e-12, atol=1e-12, check_stride=False)
    bank.requires_grad_(False)
    x.requires_grad_()
    bank(x).sum().backward()
    assert x.grad is not None
    if own_inputs:
        assert not x.grad[:, 3].any()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_products_in_bf16_are_no_further_off_than_those_of_autocast(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = randomise(build_tower(config, in_dim=24, tasks=TASKS))
    x_BD = rows(96, 24)
    exact = values_and_gradients(tower, x_BD)
    tower.float()

    def errors() -> list[float]:
        with torch.autocast("cpu", torch.bfloat16):
            found = values_and_gradients(tower, x_BD.float())
        assert [one.dtype for one in found] == [torch.bfloat16] + [torch.float32] * (len(found) - 1)
        return [(one - other).norm().item() for one, other in zip(found, exact, strict=True)]

    of_autocast = errors()
    cut(monkeypatch, 20)
    assert is_by_hand(tower, x_BD.float())
    found = errors()
    assert found[0] > 0  # it is bf16
    for ours, theirs, other in zip(found, of_autocast, exact, strict=True):
        assert ours <= 2 * theirs + 2**-7 * other.norm().item()


def test_keeps_the_contract_of_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 2)
    tower = build_tower(SMALL, in_dim=3, tasks=TASKS[:2])
    assert is_by_hand(tower, torch.zeros(3, 3))
    assert_tower_ok(tower)  # export and symbolic tracing are in it


def test_steps_aside_where_operations_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = build_tower(SMALL, in_dim=3, tasks=TASKS[:2])
    x_BD = torch.randn(5, 3)
    expected_BO = tower(x_BD)
    cut(monkeypatch, 2)
    compiled = torch.compile(tower, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x_BD), expected_BO)
    assert_close(torch.jit.trace(tower, (x_BD,), check_trace=False)(x_BD), expected_BO)
    assert_close(torch.func.vmap(tower)(x_BD.unsqueeze(1)).squeeze(1), expected_BO)
    slope_BD = torch.func.grad(lambda x: tower(x).sum())(x_BD)
    inputs_BD = x_BD.clone().requires_grad_()
    assert_close(slope_BD, torch.autograd.grad(tower(inputs_BD).sum(), inputs_BD)[0])
    with torch.autocast("cpu", torch.float16):
        assert not is_by_hand(tower, x_BD)
    assert tower.bfloat16()(x_BD.bfloat16()).dtype is torch.bfloat16


def test_steps_aside_for_hooks_and_other_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    x_BD, seen = torch.randn(5, 3), list[str]()
    cut(monkeypatch, 2)
    parts = ("gates", "experts", "experts.layers.0", "heads.hidden")
    config = MMoEConfig(num_experts=3, expert_widths=(4,), head_widths=(2,))
    for name in parts:
        tower = build_tower(config, in_dim=3, tasks=TASKS)
        expected_BO = tower(x_BD)
        tower.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
        assert_close(tower(x_BD), expected_BO)
        assert seen.pop() == name
    tower = build_tower(config, in_dim=3, tasks=TASKS)
    bank = tower.experts
    bank.forward = lambda x: torch.zeros(len(x), 3, 4)
    assert_close(tower(x_BD), tower(-x_BD))
    del bank.forward
    prune.l1_unstructured(bank.layers[0], "shared_weight", 0.5)
    for _ in range(2):
        tower(x_BD).sum().backward()


def test_threads_may_change_between_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = randomise(build_tower(CONFIGS[0], in_dim=5, tasks=TASKS))
    x_BD = rows(40, 5)
    expected = values_and_gradients(tower, x_BD)
    cut(monkeypatch, 1)
    monkeypatch.setattr(chunked, "_CHUNK_FLOATS", 8 * 17)
    before = torch.get_num_threads()
    x_BD.requires_grad_()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(chunked, "can_run", lambda *_: True)
        out = tower(x_BD)
        torch.set_num_threads(1)
        weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
        loss = (out * weight).sum()
        inputs = [x_BD, *tower.parameters()]
        first = torch.autograd.grad(loss, inputs, retain_graph=True)
        second = torch.autograd.grad(loss, inputs)
    finally:
        torch.set_num_threads(before)
    assert_close(list(first), expected[1:], rtol=1e-12, atol=1e-12)
    assert_close(second, first, rtol=0, atol=0)


def test_steps_aside_for_forward_mode_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = randomise(build_tower(SMALL, in_dim=3, tasks=TASKS[:2]))
    x_BD, along_BD = rows(5, 3), rows(5, 3, seed=2)
    exact = torch.func.jvp(tower, (x_BD,), (along_BD,))[1]
    cut(monkeypatch, 2)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(tower(forward_ad.make_dual(x_BD, along_BD))).tangent
    assert_close(found, exact)


def test_steps_aside_where_operations_are_recorded_or_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tower = randomise(build_tower(SMALL, in_dim=3, tasks=TASKS[:2]))
    exact = tower(rows(5, 3, seed=2))
    with FlopCounterMode(display=False) as plain:
        tower(rows(5, 3))
    cut(monkeypatch, 2)
    with FlopCounterMode(display=False) as counter:
        tower(rows(5, 3))
    assert counter.get_total_flops() == plain.get_total_flops() > 0
    assert_close(make_fx(tower)(rows(5, 3))(rows(5, 3, seed=2)), exact)


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[4]], ids=repr)
def test_bf16_without_gradients_frozen_and_twice(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = randomise(build_tower(config, in_dim=24, tasks=TASKS)).float()
    x_BD = rows(50, 24).float()
    cut(monkeypatch, 20)
    with torch.autocast("cpu", torch.bfloat16):
        expected_BO = tower(x_BD)
        with torch.no_grad():
            assert_close(tower(x_BD), expected_BO, rtol=0, atol=0)
        free = [weight for weight in tower.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(expected_BO.float().sum(), free)
        free[0].requires_grad_(False)
        rest = torch.autograd.grad(tower(x_BD).float().sum(), free[1:])
        assert_close(rest, gradients[1:], rtol=0, atol=0)
        x_BD.requires_grad_()
        (slope_BD,) = torch.autograd.grad(tower(x_BD).sum(), x_BD, create_graph=True)
        slope_BD.square().sum().backward()
    assert x_BD.grad is not None
    assert x_BD.grad.isfinite().all()


def test_is_for_many_activations_and_without_dropout() -> None:
    bank = ExpertBank(3, (128,), num_shared_experts=8, dropout=0.5)
    few, many = torch.zeros(1023, 3), torch.zeros(1024, 3)
    assert not is_by_hand(bank, many)
    bank.eval()
    assert is_by_hand(bank, many)
    assert not is_by_hand(bank, few)
    bank.dropout.train()  # as for Monte Carlo dropout
    assert not is_by_hand(bank, many)
    bank.dropout = nn.AlphaDropout().eval()  # somebody's own
    assert not is_by_hand(bank, many)


def is_by_hand(module: nn.Module, x: Tensor) -> bool:
    """Whether the hand-written function stands anywhere in the graph of the result."""
    result = module(x)
    waiting, seen = [result.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return any("_Chunked" in type(node).__name__ for node in seen)
