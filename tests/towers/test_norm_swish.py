from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from recmtl.towers import HoME, HoMEConfig, norm_swish
from recmtl.towers.expert_bank import ExpertBank


def given(experts: int = 3, rows: int = 5, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Products, scales and biases in float64 that ask for gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return draw(experts, rows, width), draw(experts, width), draw(experts, width)


def by_loops(x_EBO: Tensor, weight_EO: Tensor, bias_EO: Tensor) -> np.ndarray:
    x, weight, bias = (part.detach().numpy() for part in (x_EBO, weight_EO, bias_EO))
    out = np.empty_like(x)
    for e, rows in enumerate(x):
        for b, row in enumerate(rows):
            normal = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
            scaled = normal * weight[e] + bias[e]
            out[e, b] = scaled / (1 + np.exp(-scaled))
    return out


def test_values_and_gradients() -> None:
    x_EBO, weight_EO, bias_EO = given()
    out_EBO = norm_swish.run(x_EBO, weight_EO, bias_EO)
    np.testing.assert_allclose(
        out_EBO.detach().numpy(), by_loops(x_EBO, weight_EO, bias_EO), rtol=1e-12
    )
    assert torch.autograd.gradcheck(norm_swish.run, (x_EBO, weight_EO, bias_EO))
    assert torch.autograd.gradgradcheck(norm_swish.run, (x_EBO, weight_EO, bias_EO))
    for left_out in range(3):
        some = [one.detach() if i == left_out else one for i, one in enumerate(given())]
        norm_swish.run(*some).sum().backward()
        assert [one.grad is not None for one in some] == [i != left_out for i in range(3)]


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_chunks_and_strides_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x_EBO, weight_EO, bias_EO = given()
    expected = norm_swish.plain(x_EBO, weight_EO, bias_EO)
    grads = torch.autograd.grad(expected.sin().sum(), (x_EBO, weight_EO, bias_EO))
    monkeypatch.setattr(norm_swish, "_CHUNK_FLOATS", chunk)
    side_by_side = x_EBO.detach().transpose(0, 1).contiguous().requires_grad_()
    found = norm_swish.run(side_by_side.transpose(0, 1), weight_EO, bias_EO)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grad_x, *others = torch.autograd.grad(found.sin().sum(), (side_by_side, weight_EO, bias_EO))
    for one, other in zip((grad_x.transpose(0, 1), *others), grads, strict=True):
        assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_runs_where_it_can_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(*tensors: Tensor) -> Tensor:
        calls.append(tensors[0].dtype)
        return norm_swish.plain(*tensors)

    monkeypatch.setattr(norm_swish, "run", run)
    bank = ExpertBank(4, (8, 6), num_shared_experts=2, norm="layer", activation="swish")
    out = bank(torch.ones(3, 4))
    assert len(calls) == 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bank(torch.ones(3, 4)).shape == out.shape
    torch.func.vmap(bank)(torch.ones(2, 3, 4))
    ExpertBank(4, (8,), num_shared_experts=2, norm="layer")(torch.ones(3, 4))
    ExpertBank(4, (8,), num_shared_experts=2, norm="batch", activation="swish")(torch.ones(3, 4))
    assert len(calls) == 2


def test_no_rows_and_no_gradients() -> None:
    tower = HoME(HoMEConfig(), in_dim=4, tasks=("a", "b"))
    assert tower(torch.zeros(0, 4)).shape == (0, 2)
    with torch.no_grad():
        logits_BT = tower(torch.ones(3, 4))
    assert_close(logits_BT, tower(torch.ones(3, 4)).detach())
    assert not logits_BT.requires_grad


def test_transforms_over_a_backward() -> None:
    x_EBO, weight_EO, bias_EO = given()
    grads_NEBO = torch.randn(3, *x_EBO.shape, dtype=torch.float64)

    def all_of(run: Any) -> Tensor:
        out_EBO = run(x_EBO, weight_EO, bias_EO)
        return torch.func.vmap(
            lambda grad: torch.autograd.grad(out_EBO, x_EBO, grad, retain_graph=True)[0]
        )(grads_NEBO)

    assert_close(all_of(norm_swish.run), all_of(norm_swish.plain), rtol=1e-11, atol=1e-11)
