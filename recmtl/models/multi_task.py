"""MultiTaskNet: Batch -> logits. Training and scoring differ in the lookup alone.

Shape letters: B rows, D input width, H heads (tasks without `product_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from recmtl.batch import Batch
from recmtl.embeddings.vectors import side_by_side
from recmtl.errors import CheckpointError
from recmtl.models.inputs import TowerInputs
from recmtl.towers import Tower, TowerInput

__all__ = ["MultiTaskNet"]

Decay = Callable[[Any], Any]
"""From looked-up vectors to the same vectors."""


class MultiTaskNet(nn.Module):
    """The one network from a batch to the logits of all heads."""

    def __init__(self, lookup: nn.Module, tower: Tower, inputs: TowerInputs) -> None:
        """Put the parts together.

        Args:
            lookup: `ShardedLookup` or `PlainLookup`.
            tower: the tower.
            inputs: what makes the tower's input of looked-up vectors and dense features.
        """
        super().__init__()
        self.lookup = lookup
        self.inputs = inputs
        self.tower = tower

    @overload
    def forward(self, batch: Batch, *, decay: Decay | None = None) -> Tensor: ...
    @overload
    def forward(
        self, batch: Batch, *, squares: bool, decay: Decay | None = None
    ) -> Tensor | tuple[Tensor, Tensor]: ...
    def forward(
        self, batch: Batch, *, squares: bool = False, decay: Decay | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [B, H]; with `squares` also the sum of |v|² over each row's vectors v, [B].

        A vector counts once for each time it is looked up: a bag is its pooled vector, a sequence
        each of its items. An l2 penalty on this sum is exact with fused updates, because it reaches
        the tables through the same backward. `decay` makes what was looked up decay in backward.
        """
        vectors = self.lookup(batch)
        if decay is not None and vectors:
            vectors = decay(vectors)
        logits_BH: Tensor = self.tower(self.inputs(batch, vectors))
        if not squares:
            return logits_BH
        pieces = side_by_side(vectors, list(vectors))
        flat = torch.cat([piece.flatten(1) for _, piece in pieces], dim=1)
        return logits_BH, flat.square().sum(dim=1)

    def tower_input(self, batch: Batch) -> Tensor | TowerInput:
        """What the tower gets for a batch."""
        found: Tensor | TowerInput = self.inputs(batch, self.lookup(batch))
        return found

    @torch.no_grad()
    def explain(self, batch: Batch) -> dict[str, Tensor]:
        """Gates and expert statistics of a batch (see `Tower.explain`)."""
        inputs: Any = self.tower_input(batch)  # whichever of the two the tower takes
        return self.tower.explain(inputs)

    def dense_tensors(self) -> dict[str, Tensor]:
        """Every tensor outside the tables by name; writing to one changes the net."""
        return {
            **self.inputs.state_dict(prefix="inputs."),
            **self.tower.state_dict(prefix="tower."),
        }

    @torch.no_grad()
    def load_dense(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors that another net's `dense_tensors` gave.

        Raises:
            CheckpointError: names or shapes differ from this net's.
        """
        own = self.dense_tensors()
        problems = [
            f"The checkpoint lacks `{name}`, which the net has."
            for name in own
            if name not in tensors
        ]
        problems += [
            f"The checkpoint has `{name}`, which the net lacks."
            for name in tensors
            if name not in own
        ]
        problems += [
            f"`{name}` has shape {list(tensors[name].shape)} in the checkpoint and "
            f"{list(tensor.shape)} in the net."
            for name, tensor in own.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ]
        if problems:
            raise CheckpointError.all_of(problems)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
