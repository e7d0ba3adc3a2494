"""What decides which checkpoint is the best one, and in which direction."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

__all__ = ["Monitor"]


class Monitor(NamedTuple):
    """A validation metric and its better direction."""

    key: str
    """As it is logged: `valid/cvr/auc`."""
    mode: Literal["min", "max"]

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether `score` replaces `best`.

        A tie does not. NaN replaces no number; while nothing but NaN was seen, the newest is best.

        Example:
            >>> Monitor("valid/ctr/logloss", "min").is_better(0.5, 0.6)
            True
            >>> Monitor("valid/ctr/logloss", "min").is_better(float("nan"), 0.6)
            False
        """
        if best is None or math.isnan(best):
            return True
        return score > best if self.mode == "max" else score < best
