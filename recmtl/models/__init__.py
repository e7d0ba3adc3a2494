"""Batch -> logits: the network of a spec, and its tasks."""

from recmtl.models.build import build_net, build_tasks, input_dims, reads_items
from recmtl.models.inputs import TowerInputs
from recmtl.models.multi_task import MultiTaskNet
from recmtl.models.outcomes import outcome_metrics

__all__ = [
    "MultiTaskNet",
    "TowerInputs",
    "build_net",
    "build_tasks",
    "input_dims",
    "outcome_metrics",
    "reads_items",
]
