"""Task: one predicted outcome, declared once."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from recmtl.spec._base import StrictModel
from recmtl.spec.data import Column

__all__ = ["Task"]


class Task(StrictModel):
    """What is predicted, from which label, on which rows.

    A row is observed for a task where `given` is 1 and the label is not null.
    """

    reserved: ClassVar[frozenset[str]] = frozenset(
        {"after", "loss", "matured"} | {"kind: hazard", "kind: ordinal"}
    )

    name: Column
    """Name of the outcome, an identifier: metrics and output columns are called after it."""
    label: Column
    """Column of the outcome: 0 or 1 (or a boolean), a number for `kind: regression`, a class number
    from 0 on for `kind: multiclass`."""
    kind: Literal["binary", "regression", "multiclass"] = "binary"
    """`binary` predicts a probability, `regression` a number, `multiclass` the probability of each
    of several classes, of which one comes."""
    classes: int | None = Field(default=None, ge=2, le=1000)
    """Number of classes of `kind: multiclass`, where labels are 0, 1, ... below it."""
    given: Column | None = None
    """Column of the condition: the task is observed only where it is 1 (conversion given click)."""
    product_of: tuple[Column, ...] | None = None
    """Binary tasks, at least two, whose probabilities multiply to this one's: the task has no head
    of its own."""
    group: Column = "all"
    """Group of tasks that belong together, an identifier, for towers that know groups (HoME)."""
    calibration: Literal["none", "platt", "isotonic"] = "none"
    """What brings probabilities to the rates that come: a line through the logits (`platt`) or a
    rising curve (`isotonic`), fitted to the validation rows when training ends. Predictions keep
    their order, and a product is the product of calibrated factors."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of the task's terms in the loss."""
