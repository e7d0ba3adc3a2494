"""Sums of losses on the device, read by several readers, each at its own pace."""

from __future__ import annotations

from collections.abc import Mapping
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

    def restore(self, state: Mapping[str, Any], device: torch.device, *, share: float) -> Position:
        """Go on from a `state`; returns what its reader passes next.

        Args:
            state: what `state` gave.
            device: where the sums shall be.
            share: what part of the sums is this process's: 1 for one of them, 0 for the others.
        """
        sums, read = (
            share * torch.tensor(state[key], dtype=torch.float64, device=device)
            for key in ("sums", "read")
        )
        self._sums, self._steps = sums, int(state["steps"])
        return read, int(state["read_steps"])

    def since(self, before: Position) -> tuple[Tensor, Position]:
        """Mean of [loss, term of each task] since `before`, and what to pass next time."""
        assert self._sums is not None
        now = (self._sums, self._steps)
        sums, steps = now if before is None else (now[0] - before[0], now[1] - before[1])
        return sums / max(steps, 1), now
