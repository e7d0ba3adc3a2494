"""Which table optimizers a device has. The updates themselves are in test_sharded.py."""

from __future__ import annotations

import pytest
import torch

from recmtl.embeddings import EmbeddingConfig
from recmtl.embeddings.optim import fuse_optimizer, require_optimizer
from recmtl.errors import SpecError


def test_adam_is_for_cuda_alone() -> None:
    require_optimizer(EmbeddingConfig(optimizer="adam"), "cuda")
    with pytest.raises(SpecError, match=r"train\.embedding\.optimizer: `adam` has no fused kernel"):
        require_optimizer(EmbeddingConfig(optimizer="adam"), torch.device("cpu"))


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_the_others_are_for_every_device(optimizer: str) -> None:
    require_optimizer(EmbeddingConfig(optimizer=optimizer), "cpu")


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd", "adam"])
def test_each_table_gets_arguments_of_its_own(optimizer: str) -> None:
    tables = [torch.nn.Parameter(torch.zeros(2, 4, device="meta")) for _ in range(2)]
    fuse_optimizer(tables, EmbeddingConfig(optimizer=optimizer, lr=0.25, eps=1e-3))
    first, second = (table._optimizer_kwargs[0] for table in tables)
    assert first is not second
    assert first["lr"] == 0.25
    assert first.get("eps") == (None if optimizer == "sgd" else 1e-3)
    assert "weight_decay" not in first
