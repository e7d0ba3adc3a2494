"""A small checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recmtl import checkpoint

STATE = {"epoch": 2, "position": [3, None], "note": "ä"}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "tables/item.id/weight": torch.randn(7, 4, generator=generator),
        "tables/item.id/optimizer/momentum1": torch.rand(7, generator=generator),
        "net/tower.last": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "optimizer/tower.last/step": torch.tensor(5.0),
        "optimizer/tower.last/counts": torch.tensor([2**53 + 1, -1]),
    }


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder = tmp_path / "checkpoints" / "step-00000007"
    checkpoint.save(folder, tensors, STATE)
    return folder
