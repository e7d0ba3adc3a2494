"""One process or many: whatever is done here, every rank does, and all fail where one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist

from recmtl.errors import CheckpointError

__all__ = ["from_all", "num_ranks", "on_rank_0", "rank", "together"]

_T = TypeVar("_T")


def num_ranks() -> int:
    """How many processes there are; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if num_ranks() > 1 else 0


def from_all(value: _T) -> list[_T]:
    """Every rank's value, on every rank."""
    values = [value] * num_ranks()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def on_rank_0(value: _T) -> _T:
    """Rank 0's value, on every rank."""
    return from_all(value)[0]


def together(work: Callable[[], _T]) -> _T:
    """Do `work` on this rank; where one rank fails, all fail, so that none waits for ever."""
    result: _T | None = None
    problem: OSError | CheckpointError | None = None
    try:
        result = work()
    except (OSError, CheckpointError) as error:
        problem = error
    first = next((p for p in from_all(problem) if p is not None), None)
    if first is not None:
        raise first
    return cast("_T", result)
