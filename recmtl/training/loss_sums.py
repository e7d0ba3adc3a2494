"""Sums of losses on the device, read by several readers, each at its own pace."""

from __future__ import annotations

import torch
from torch import Tensor

from recmtl.tasks import LossTerms

__all__ = ["LossSums", "Position"]

Position = tuple[Tensor, int] | None
"""Where a reader of the losses stands: their sums and the number of steps."""


class LossSums:
    """Sums of the loss and its terms, on the device: nothing waits for them until someone asks."""

    def __init__(self) -> None:
        """Start at zero."""
        self._sums: Tensor | None = None
        self._steps = 0

    def add(self, terms: LossTerms) -> None:
        """Add the terms of one step."""
        values = torch.stack([terms.total, *terms.by_task.values()]).detach().double()
        self._sums = values if self._sums is None else self._sums + values
        self._steps += 1

    def since(self, before: Position) -> tuple[Tensor, Position]:
        """Mean of [loss, term of each task] since `before`, and what to pass next time."""
        assert self._sums is not None
        now = (self._sums, self._steps)
        sums, steps = now if before is None else (now[0] - before[0], now[1] - before[1])
        return sums / max(steps, 1), now
