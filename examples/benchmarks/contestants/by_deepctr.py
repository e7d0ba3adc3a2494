"""DeepCTR-Torch: its MMOE, `compile`, `fit` and `predict`.

Gates are linear and heads 32 wide as everywhere here. Its default L2 on the tables (1e-5) is kept,
its metrics after every step are left out. The bare step is the loop of its `fit`, which has no
function of its own, on batches that are tensors already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from batches import FEATURES, LABELS, batches_of, cycling
from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import MMOE
from workload import DENSE, DIM, IDS, SIZES

__all__ = ["fit", "predict", "stepper"]


def stepper(tower: str, train: str, batch_size: int) -> Callable[[int], int]:
    """Forward, loss, L2, backward, Adam."""
    model = _model(tower, seed=0).train()

    def steps(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for x, y in batches:
            probs = model(x)
            model.optim.zero_grad()
            losses = [
                loss(probs[:, i], y[:, i], reduction="sum")
                for i, loss in enumerate(model.loss_func)
            ]
            total = sum(losses) + model.get_regularization_loss() + model.aux_loss
            total.item()
            total.backward()
            model.optim.step()

    batches = [
        (_matrix(batch, FEATURES), _matrix(batch, LABELS))
        for batch in batches_of(train, batch_size)
    ]
    return cycling(steps, batches, batch_size)


def fit(tower: str, train: str, batch_size: int, seed: int, folder: str) -> tuple[Any, int]:
    """One epoch from Parquet."""
    frame = pd.read_parquet(train)
    model = _model(tower, seed)
    inputs = {name: frame[name].to_numpy() for name in FEATURES}
    model.fit(inputs, frame[list(LABELS)].to_numpy(), batch_size=batch_size, epochs=1, verbose=0)
    return model, len(frame)


def predict(model: Any, test: str, batch_size: int, out: str) -> int:
    """Probabilities of a log."""
    frame = pd.read_parquet(test, columns=list(FEATURES))
    probs = model.predict({name: frame[name].to_numpy() for name in FEATURES}, batch_size)
    pd.DataFrame(probs, columns=["click", "ctcvr"]).to_parquet(out)
    return len(frame)


def _model(tower: str, seed: int) -> Any:
    if tower != "mmoe":
        raise ValueError(f"`{tower}` is not compared here.")
    columns = [SparseFeat(n, s, embedding_dim=DIM) for n, s in zip(IDS, SIZES, strict=True)]
    model = MMOE(
        [*columns, *(DenseFeat(name) for name in DENSE)],
        num_experts=8,
        expert_dnn_hidden_units=(128, 64),
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=(32,),
        seed=seed,
    )
    model.compile("adam", loss=["binary_crossentropy"] * 2)
    return model


def _matrix(batch: dict[str, Any], names: tuple[str, ...]) -> torch.Tensor:
    columns = np.column_stack([batch[name] for name in names])
    return torch.from_numpy(columns.astype(np.float32))
