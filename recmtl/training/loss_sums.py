"""Sums of losses on the device, read by several readers, each at its own pace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

    def state(self, before: Position) -> dict[str, Any] | None:
        """Where this stands and where a reader does, as plain numbers; None before any step."""
        if self._sums is None:
            return None
        read, read_steps = (torch.zeros_like(self._sums), 0) if before is None else before
        return {
            "sums": self._sums.tolist(),
            "steps": self._steps,
            "read": read.tolist(),
            "read_steps": read_steps,
        }

    def restore(
        self, states: Sequence[Mapping[str, Any]], device: torch.device, *, rank: int, ranks: int
    ) -> Position:
        """Go on from the `state` of each process; returns what this one's reader passes next.

        Args:
            states: what `state` gave on each rank.
            device: where the sums shall be.
            rank: which process this is. If there were another number of them, the first one takes
                all sums.
            ranks: how many there are now.
        """
        mine = states[rank : rank + 1] if len(states) == ranks else states if rank == 0 else []

        def total(key: str) -> Tensor:
            rows = [one[key] for one in mine] or [[0.0] * len(states[0][key])]
            return torch.tensor(rows, dtype=torch.float64, device=device).sum(dim=0)

        self._sums, self._steps = total("sums"), int(states[0]["steps"])
        return total("read"), int(states[0]["read_steps"])

    def since(self, before: Position) -> tuple[Tensor, Position]:
        """Mean of [loss, term of each task] since `before`, and what to pass next time."""
        assert self._sums is not None
        now = (self._sums, self._steps)
        sums, steps = now if before is None else (now[0] - before[0], now[1] - before[1])
        return sums / max(steps, 1), now
