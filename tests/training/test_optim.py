"""One optimizer over tables and dense parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from recmtl.training.optim import DENSE_OPTIMIZERS, TablesAndDense, dense_optimizer


class Kernels:
    """Counts how often learning rates are copied into the kernels."""

    def __init__(self, num_groups: int) -> None:
        self.param_groups = [{"params": [], "lr": 0.0} for _ in range(num_groups)]
        self.kernel_lrs: list[list[float]] = []

    def step(self, closure: object = None) -> None:
        assert closure is None
        self.kernel_lrs.append([group["lr"] for group in self.param_groups])


def combined(kernels: Kernels | None = None) -> tuple[nn.Linear, TablesAndDense]:
    layer = nn.Linear(3, 1)
    named = dict(layer.named_parameters())
    return layer, TablesAndDense(
        kernels, dense_optimizer("adam", named, lr=0.1, weight_decay=0.0), named, lr=0.05
    )


def test_closure_runs_once() -> None:
    layer, optimizer = combined(Kernels(2))
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        loss = layer(torch.ones(2, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == [1]


@pytest.mark.parametrize("num_groups", [1, 4])
def test_learning_rate_reaches_every_kernel_only_when_it_changes(num_groups: int) -> None:
    kernels = Kernels(num_groups)
    _, optimizer = combined(kernels)
    optimizer.push_lr()
    optimizer.push_lr()
    optimizer.param_groups[0]["lr"] = 0.025
    optimizer.push_lr()
    assert kernels.kernel_lrs == [[0.05] * num_groups, [0.025] * num_groups]


def test_a_schedule_moves_both_groups() -> None:
    layer, optimizer = combined(Kernels(3))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.05]
    assert optimizer.dense.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("kind", DENSE_OPTIMIZERS)
def test_steps_equal_torchs_own(kind: str) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    reference = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "adagrad": torch.optim.Adagrad,
    }
    theirs_optimizer = reference[kind](theirs.parameters(), lr=0.1, weight_decay=0.01)
    ours_optimizer = dense_optimizer(kind, dict(ours.named_parameters()), lr=0.1, weight_decay=0.01)
    for step in range(5):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        for layer, optimizer in ((ours, ours_optimizer), (theirs, theirs_optimizer)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7)


def test_state_is_live() -> None:
    layer, optimizer = combined()
    layer(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert optimizer.dense_state()["bias/step"] == 1
    optimizer.dense_state()["bias/exp_avg"].zero_()
    assert optimizer.dense.state[layer.bias]["exp_avg"] == 0
