"""Task: one predicted outcome, declared once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recmtl.spec._base import StrictModel

__all__ = ["Task"]


class Task(StrictModel):
    """What is predicted, from which label, on which rows.

    A row is observed for a task where `given` is 1 and the label is not null.
    """

    name: str
    """Name of the outcome, an identifier: metrics and output columns are called after it."""
    label: str
    """Column of the outcome: 0 or 1 (or a boolean), a number for `kind: regression`."""
    kind: Literal["binary", "regression"] = "binary"
    """`binary` predicts a probability, `regression` a number."""
    given: str | None = None
    """Label column of the condition: the task is observed only where it is 1 (conversion given click)."""
    product_of: tuple[str, ...] | None = None
    """Tasks whose probabilities multiply to this one's: the task has no head of its own."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of the task's terms in the loss."""
