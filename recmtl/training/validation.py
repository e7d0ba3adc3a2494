"""Exact validation: outcomes are kept as columns, numbers are made after the pass.

Shape letters: B rows, H heads, K label columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from recmtl.batch import Batch

__all__ = ["OutcomeColumns", "Outcomes", "flat_metrics", "json_number"]

_COUNTS = ("n", "positives", "gauc_groups", "gauc_undefined_groups")


class Outcomes(NamedTuple):
    """All rows of a pass, in the order of the log, on the CPU."""

    logits_BH: Tensor
    labels_BK: Tensor
    weight_B: Tensor
    rows_B: Tensor


class OutcomeColumns:
    """Collects the outcomes of a pass, batch by batch, on the device they are on."""

    def __init__(self) -> None:
        """Start with no row."""
        self._parts: list[Outcomes] = []

    def add(self, logits_BH: Tensor, batch: Batch) -> None:
        """Keep one batch."""
        logits_BH = logits_BH.detach().float()
        self._parts.append(Outcomes(logits_BH, batch.labels_BK, batch.weight_B, batch.rows_B))

    def take(self) -> Outcomes | None:
        """Give what all ranks collected, without padding, and forget it; None but on rank 0."""
        columns = [torch.cat(parts) for parts in zip(*self._parts, strict=True)]
        self._parts = []
        if dist.is_initialized() and dist.get_world_size() > 1:
            gathered = [_on_rank_0(column) for column in columns]
            if any(column is None for column in gathered):
                return None
            columns = [column for column in gathered if column is not None]
        outcomes = Outcomes(*(column.cpu() for column in columns))
        order = outcomes.rows_B.argsort(stable=True)
        order = order[outcomes.rows_B[order] >= 0]
        return Outcomes(*(column[order] for column in outcomes))


def _on_rank_0(column: Tensor) -> Tensor | None:
    """The column of all ranks, one below the other; their lengths may differ."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    length = torch.tensor([len(column)], device=column.device)
    lengths = [torch.empty_like(length) for _ in range(world_size)]
    dist.all_gather(lengths, length)
    longest = int(torch.stack(lengths).max())
    padded = column.new_zeros(longest, *column.shape[1:])
    padded[: len(column)] = column
    parts = [torch.empty_like(padded) for _ in range(world_size)] if rank == 0 else None
    dist.gather(padded, parts)
    if parts is None:
        return None
    return torch.cat([part[: int(n)] for part, n in zip(parts, lengths, strict=True)])


def json_number(key: str, value: float) -> float | int | None:
    """A logged metric as JSON has it: counts as integers, what is not defined as null.

    Example:
        >>> json_number("valid/ctr/n", 500.0), json_number("valid/ctr/auc", math.nan)
        (500, None)
    """
    if not math.isfinite(value):
        return None
    return int(value) if key.rpartition("/")[2] in _COUNTS else value


def flat_metrics(metrics: Mapping[str, Any], stage: str) -> dict[str, float]:
    """The metrics of `outcome_metrics` under one key each; those that are not defined are NaN.

    Args:
        metrics: ``{"tasks": {task: {metric: value}}, "segments": {column: {value: {task:
            {...}}}}}``.
        stage: what the keys begin with.

    Example:
        >>> numbers = {"ctr": {"n": 2, "auc": None}}
        >>> flat_metrics({"tasks": numbers, "segments": {"device": {"ios": numbers}}}, "valid")
        {'valid/ctr/n': 2.0, 'valid/ctr/auc': nan,
         'valid/device=ios/ctr/n': 2.0, 'valid/device=ios/ctr/auc': nan}
    """
    return dict(_flat(metrics, stage))


def _flat(metrics: Mapping[str, Any], stage: str) -> Iterator[tuple[str, float]]:
    tables = [(stage, metrics["tasks"])]
    for column, values in metrics.get("segments", {}).items():
        tables += [(f"{stage}/{column}={value}", tasks) for value, tasks in values.items()]
    for prefix, tasks in tables:
        for task, numbers in tasks.items():
            for metric, value in numbers.items():
                yield f"{prefix}/{task}/{metric}", math.nan if value is None else float(value)
