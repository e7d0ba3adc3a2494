"""Tasks: populations, products and the loss; from a tower's logits to what each task says."""

from __future__ import annotations

from recmtl.tasks.calibrator import Calibrator
from recmtl.tasks.definition import TaskDef
from recmtl.tasks.sampling import Thinning
from recmtl.tasks.task_set import LossTerms, TaskSet

__all__ = ["Calibrator", "LossTerms", "TaskDef", "TaskSet", "Thinning"]
