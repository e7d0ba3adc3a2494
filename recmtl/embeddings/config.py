"""EmbeddingConfig: how tables are initialised and updated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from recmtl._checks import require_one_of

__all__ = ["EmbeddingConfig"]

OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd", "adam")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """Optimizer and regularisation of the embedding tables; updates happen during backward."""

    optimizer: Literal["rowwise_adagrad", "adagrad", "sgd", "adam"] = "rowwise_adagrad"
    """`rowwise_adagrad`, `adagrad` and `sgd` on every device, `adam` on CUDA only."""
    lr: float = 0.05
    """Learning rate of the tables."""
    eps: float = 1e-8
    """Added to the root of the accumulated squares."""
    l2: float = 0.0
    """Penalty l2/2 · |v|² on each looked-up vector v of a row, once per occurrence (of a bag: the
    pooled vector)."""
    prior: float = 0.0
    """Precision (one over the variance) of a normal prior on every row v of a table: the loss
    summed over the training rows gains prior/2 · |v|² once for each v, where a penalty at each
    lookup, such as `l2`, holds frequent ids back as well. 30 to 100 keep tables of users and items
    from over-fitting in further epochs, and slow the first one down. A table that features share is
    penalised where its owner looks it up, and not at all where its owner is a pooled list."""
    init_scale: float = 0.01
    """Initial weights are normal with this standard deviation; row 0 starts at zero."""

    def __post_init__(self) -> None:
        require_one_of(OPTIMIZERS, optimizer=self.optimizer)
        for name in ("lr", "eps", "init_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)!r}.")
        for name in ("l2", "prior"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"`{name}` must be a finite number of at least 0, got {getattr(self, name)!r}."
                )
