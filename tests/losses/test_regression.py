from __future__ import annotations

import torch
from torch.testing import assert_close

from recmtl.losses import squared_error


def test_is_half_the_square() -> None:
    outputs, targets = [0.5, -2.0, 3.0], [1.0, 4.0, 3.0]
    expected = [(z - t) ** 2 / 2 for z, t in zip(outputs, targets, strict=True)]
    assert_close(squared_error(torch.tensor(outputs), torch.tensor(targets)).tolist(), expected)


def test_half_precision_is_widened() -> None:
    losses = squared_error(torch.tensor([300.0], dtype=torch.float16), torch.tensor([-300.0]))
    assert losses.tolist() == [180_000.0]  # beyond float16
