from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from recmtl.losses import log1mexp, product_log_odds, product_log_prob, product_nll
from tests.reference import likelihood

GRID = tuple(range(-60, 61, 5))
LOGIT = st.floats(-60, 60, width=32)


def check(logits_BF: torch.Tensor, target: int) -> None:
    """Loss within 1e-4, gradient exact wherever it exceeds float32's smallest numbers."""
    logits_BF = logits_BF.clone().requires_grad_()
    losses_B = product_nll(logits_BF, torch.full((len(logits_BF),), target))
    losses_B.sum().backward()
    assert logits_BF.grad is not None
    assert logits_BF.grad.isfinite().all()
    rows = logits_BF.detach().double().tolist()
    expected_B = torch.tensor([likelihood.product_nll(z, target) for z in rows])
    exact_BF = torch.tensor(
        [likelihood.product_nll_gradient(z, target) for z in rows], dtype=torch.float64
    )
    assert_close(losses_B, expected_B, rtol=1e-6, atol=1e-4)
    seen = exact_BF.abs() > 1e-37
    assert (logits_BF.grad[seen] != 0).all()
    digits = 1e-2 if logits_BF.dtype == torch.bfloat16 else 1e-4
    assert_close(logits_BF.grad[seen].double(), exact_BF[seen], rtol=digits, atol=0)


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_factors_are_exact_within_60_pitfall_T17(dtype: torch.dtype, target: int) -> None:
    check(torch.tensor(list(itertools.product(GRID, GRID)), dtype=dtype), target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(
    rows=st.lists(st.tuples(LOGIT, LOGIT, LOGIT), min_size=1, max_size=8), target=st.integers(0, 1)
)
def test_three_factors_are_exact_within_60_pitfall_T17(
    dtype: torch.dtype, rows: list[tuple[float, ...]], target: int
) -> None:
    check(torch.tensor(rows).to(dtype), target)


@pytest.mark.parametrize("size", [85.0, 100.0, 1e4])
def test_beyond_60_loss_and_gradient_stay_finite(size: float) -> None:
    logits_BF = torch.tensor(list(itertools.product([-size, 0.0, size], repeat=2)))
    for target in (0.0, 1.0):
        z_BF = logits_BF.clone().requires_grad_()
        losses_B = product_nll(z_BF, torch.full((9,), target))
        losses_B.sum().backward()
        assert losses_B.isfinite().all()
        assert z_BF.grad is not None
        assert z_BF.grad.isfinite().all()
    certain = product_nll(torch.tensor([size, size]), torch.tensor(0.0))
    assert_close(certain, torch.tensor(size - math.log(2)))


def test_gradient_matches_finite_differences() -> None:
    torch.manual_seed(0)
    logits_BF = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    targets_B = torch.rand(12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: product_nll(z, targets_B), (logits_BF,))


def test_logits_that_are_no_factors_change_nothing() -> None:
    logits_BF = torch.tensor([[0.3, -1.0, 50.0], [2.0, 4.0, -50.0]], requires_grad=True)
    factors_F = torch.tensor([True, True, False])
    targets_B = torch.tensor([0.0, 1.0])
    losses_B = product_nll(logits_BF, targets_B, factors_F)
    assert_close(losses_B, product_nll(logits_BF[:, :2], targets_B))
    losses_B.sum().backward()
    assert logits_BF.grad is not None
    assert (logits_BF.grad[:, 2] == 0).all()


@given(st.lists(LOGIT, min_size=1, max_size=5))
def test_log_odds_and_log_prob_agree(logits: list[float]) -> None:
    z_F = torch.tensor(logits, dtype=torch.float64)
    log_prob = product_log_prob(z_F)
    p = math.exp(float(log_prob))
    assert_close(p, float(torch.sigmoid(z_F).prod()), rtol=1e-12, atol=0)
    assert_close(float(torch.sigmoid(product_log_odds(z_F))), p, rtol=1e-9, atol=0)


def test_log_odds_of_one_factor_is_its_logit() -> None:
    z_BF = torch.tensor([[-60.0], [-1.0], [0.0], [20.0], [60.0]])
    assert_close(product_log_odds(z_BF), z_BF[:, 0])


@given(st.floats(-80, -1e-12))
def test_log1mexp_keeps_its_digits(s: float) -> None:
    expected = math.log(-math.expm1(s)) if s > -0.5 else math.log1p(-math.exp(s))
    assert_close(
        float(log1mexp(torch.tensor(s, dtype=torch.float64))), expected, rtol=1e-12, atol=0
    )
