"""Fused optimizers: every table is updated during backward and never sees a dense gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from recmtl import _torchrec
from recmtl.embeddings.config import EmbeddingConfig
from recmtl.errors import SpecError

__all__ = ["fuse_optimizer", "require_optimizer"]


def require_optimizer(config: EmbeddingConfig, device: torch.device | str) -> None:
    """Refuse a table optimizer that the device's kernels lack.

    Raises:
        SpecError: Adam on a device other than CUDA.

    Example:
        >>> require_optimizer(EmbeddingConfig(optimizer="adagrad"), "cpu")
    """
    kind = torch.device(device).type
    if config.optimizer == "adam" and kind != "cuda":
        raise SpecError(
            f"train.embedding.optimizer: `adam` has no fused kernel on {kind}, only on CUDA. "
            "Use `rowwise_adagrad`, `adagrad` or `sgd`."
        )


def fuse_optimizer(tables: Iterable[nn.Parameter], config: EmbeddingConfig) -> None:
    """Tell each table, before it is sharded, which optimizer its backward applies.

    Weight decay is never passed: the CPU kernels ignore it without a word. `EmbeddingConfig.l2`
    goes through the loss.
    """
    optimizer: type[torch.optim.Optimizer] = {
        "rowwise_adagrad": _torchrec.RowWiseAdagrad,
        "adagrad": torch.optim.Adagrad,
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
    }[config.optimizer]
    for table in tables:
        # A fresh dict each time: it is kept and changed. An explicit eps: fbgemm's default is not
        # torch's.
        arguments = (
            {"lr": config.lr} if config.optimizer == "sgd" else {"lr": config.lr, "eps": config.eps}
        )
        # What TorchRec reads. torch has a function that writes it, in a package that compiles eight
        # optimizers when it is imported: a seventh of what `recmtl train` does before its first
        # step.
        table._optimizer_classes = [optimizer]  # type: ignore[attr-defined]
        table._optimizer_kwargs = [arguments]  # type: ignore[attr-defined]
