from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch.testing import assert_close

from recmtl.losses import binary_nll, multiclass_nll
from tests.reference import likelihood

ROWS = (
    (100.0, -100.0, 0.0),
    (-100.0, 100.0, 99.0),
    (0.0, 0.0, 0.0),
    (-3.0, 38.0, 2.5),
    (60.0, 60.0, -60.0),
    (1.0, -0.4, 0.3),
)


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_many_digits_relative_to_each_loss(target: int, dtype: torch.dtype) -> None:
    logits = torch.tensor(ROWS, dtype=dtype, requires_grad=True)
    losses = multiclass_nll(logits, torch.full((len(ROWS),), target))
    losses.sum().backward()
    digits = 3e-6 if dtype == torch.float32 else 1e-14
    expected = torch.tensor(
        [likelihood.multiclass_nll(z, target) for z in ROWS], dtype=torch.float64
    )
    slopes = torch.tensor(
        [likelihood.multiclass_nll_gradient(z, target) for z in ROWS], dtype=torch.float64
    )
    for found, exact in ((losses.detach(), expected), (logits.grad, slopes)):
        normal = exact.abs() > 1e-37  # below it float32 has fewer digits
        assert_close(found[normal], exact.to(dtype)[normal], rtol=digits, atol=0)
        assert (found[~normal].abs() <= 1e-37).all()


def test_is_that_of_loops_and_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (200, 5)), rng.integers(0, 5, 200)
    found = multiclass_nll(torch.tensor(logits), torch.tensor(labels))
    by_hand = [
        math.log(sum(math.exp(value) for value in z)) - z[y]
        for z, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert_close(found.numpy(), np.array(by_hand), rtol=1e-12, atol=1e-12)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert float(found.mean()) == pytest.approx(log_loss(labels, probs), rel=1e-12)


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 3, 0])
    assert torch.autograd.gradcheck(lambda z: multiclass_nll(z, targets), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_classes_are_the_binary_loss_of_their_difference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = 30 * torch.randn(100, 2, dtype=dtype)
    targets = torch.randint(0, 2, (100,))
    found = multiclass_nll(logits, targets)
    assert_close(found, binary_nll(logits[:, 1] - logits[:, 0], targets), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits, targets = torch.tensor([[-3.0, 9.0, 0.5]], dtype=dtype), torch.tensor([2.0])
    losses = multiclass_nll(logits, targets)
    assert losses.dtype == torch.float32
    assert_close(losses, multiclass_nll(logits.float(), targets), rtol=0, atol=0)
