from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from recmtl.losses import binary_nll
from tests.reference import likelihood

LOGITS = (-100.0, -60.0, -17.3, -1.0, 0.0, 0.4, 5.0, 38.0, 60.0, 100.0)


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_many_digits_relative_to_each_loss(target: int, dtype: torch.dtype) -> None:
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    losses = binary_nll(logits, torch.full((len(LOGITS),), target))
    losses.sum().backward()
    digits = 1e-6 if dtype == torch.float32 else 1e-14
    expected = [likelihood.product_nll([z], target) for z in LOGITS]
    slopes = [likelihood.product_nll_gradient([z], target)[0] for z in LOGITS]
    normal = torch.tensor(expected).abs() > 1e-37  # below it float32 has fewer digits
    assert_close(losses[normal], torch.tensor(expected, dtype=dtype)[normal], rtol=digits, atol=0)
    assert_close(
        logits.grad[normal], torch.tensor(slopes, dtype=dtype)[normal], rtol=digits, atol=0
    )


def test_soft_targets_are_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = -targets.numpy() * np.log(p) - (1 - targets.numpy()) * np.log(1 - p)
    assert_close(binary_nll(logits, targets).numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits = torch.tensor([-3.0, 9.0], dtype=dtype)
    losses = binary_nll(logits, torch.tensor([1.0, 0.0]))
    assert losses.dtype == torch.float32
    assert_close(losses, binary_nll(logits.float(), torch.tensor([1.0, 0.0])), rtol=0, atol=0)
