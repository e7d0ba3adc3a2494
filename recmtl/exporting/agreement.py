"""How far two models are apart: exported and eager ones, with small tables and whole ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recmtl._progress import Progress
from recmtl.data import Encoders, Log, batches_in_order
from recmtl.exporting.formats import Model
from recmtl.exporting.inputs import calls_of
from recmtl.exporting.net import ServingNet
from recmtl.models import MultiTaskNet
from recmtl.models.outcomes import Outcomes
from recmtl.tasks import TaskSet

__all__ = ["TOLERANCE", "batch_sizes", "differences", "largest_difference", "validation_cost"]

TOLERANCE = 1e-5
"""Most that an exported model may be apart from the eager one."""
_BATCHES = (1, 7, 64)
_LARGE_BATCH, _MOST_VALUES = 4096, 4096
_METRICS = ("auc", "logloss", "rmse", "mae", "accuracy")
_FORWARD_ROWS = 4096


def batch_sizes(inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Rows of the batches in which models are compared on the tensors of some rows.

    The largest is left out where a row has so many values that it would take gigabytes.
    """
    values = sum(tensor[0].numel() for tensor in inputs.values())
    return (*_BATCHES, _LARGE_BATCH) if values <= _MOST_VALUES else _BATCHES


def differences(
    model: Model, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], sizes: Sequence[int]
) -> dict[str, float]:
    """The largest difference between what a model says and what is expected, for each task.

    Args:
        model: the model.
        inputs: the tensors of some rows.
        expected: what should be said of them.
        sizes: rows of each batch that is tried; rows are repeated where it has more.
    """
    found = dict.fromkeys(expected, 0.0)
    for size in sizes:
        said = model({name: _resized(tensor, size) for name, tensor in inputs.items()})
        for name, tensor in expected.items():
            difference = largest_difference(said[name], _resized(tensor, size))
            found[name] = max(found[name], difference)
    return found


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; of numbers above 1, as a share of them.

    Example:
        >>> largest_difference(torch.tensor([0.5, 101.0]), torch.tensor([0.25, 100.0]))
        0.25
    """
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return torch.inf
    found, expected = found.double(), expected.double()
    return float(((found - expected).abs() / expected.abs().clamp(min=1.0)).max())


def validation_cost(
    net: MultiTaskNet,
    small: ServingNet,
    tasks: TaskSet,
    encoders: Encoders,
    log: Log,
    progress: Progress,
) -> dict[str, Any]:
    """Metrics of the same labelled rows, by a net and by the same net with smaller tables.

    Rows of a thinned log speak for those that were left out.

    Returns:
        ``{"rows": r, "tasks": {task: {"n": n, metric: {"before": a, "after": b}}}}``, with the rows
        where the task is observed as ``n``.
    """
    memory = encoders.spec.data.memory_bytes // 2
    before, after = Outcomes(tasks, memory=memory), Outcomes(tasks, memory=memory)
    with progress("validate", log.num_rows, "rows") as bar, torch.inference_mode():
        for batch in batches_in_order(log, encoders, batch_size=_FORWARD_ROWS, labels=True):
            for part, tensors in calls_of(batch, encoders.spec, small.inputs):
                weight_B = tasks.weight_of_all(part.labels_BK, part.weight_B)
                before.add(net(part), part.labels_BK, weight_B)
                after.add(small.logits(tensors), part.labels_BK, weight_B)
            bar.advance(len(batch))
    tables = [outcomes.metrics().table["tasks"] for outcomes in (before, after)]
    return {
        "rows": before.num_rows,
        "tasks": {
            name: {"n": tables[0][name]["n"]}
            | {
                metric: {"before": tables[0][name][metric], "after": tables[1][name][metric]}
                for metric in _METRICS
                if metric in tables[0][name]
            }
            for name in tasks.names
        },
    }


def _resized(tensor: Tensor, rows: int) -> Tensor:
    times = -(-rows // len(tensor))
    return tensor.repeat(times, *[1] * (tensor.dim() - 1))[:rows].contiguous()
