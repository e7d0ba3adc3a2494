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
from recmtl.metrics.spool import BLOCK_ROWS, Spool, SpoolColumn

__all__ = ["OutcomeColumns", "OutcomePiece", "flat_metrics", "json_number"]

_COUNTS = ("n", "positives", "gauc_groups", "gauc_undefined_groups")


class OutcomePiece(NamedTuple):
    """Some rows of a pass, on the CPU."""

    logits_BH: Tensor
    labels_BK: Tensor
    weight_B: Tensor
    rows_B: Tensor


class OutcomeColumns:
    """Collects the outcomes of this rank's batches, and gives those of all ranks to rank 0.

    Args:
        memory: bytes to use, beyond which they lie on disk; None for as many as it takes.
    """

    def __init__(self, memory: int | None = None) -> None:
        """Start with no row."""
        self._memory = memory
        self._start()

    def _start(self) -> None:
        self._parts: list[OutcomePiece] = []
        self._waiting = 0
        self._spool = Spool(None if self._memory is None else self._memory // 16)
        self._columns: list[SpoolColumn] = []
        self._ends = [0]
        self._device = torch.device("cpu")

    def clear(self) -> None:
        """Forget what an interrupted pass left."""
        self._spool.close()
        self._start()

    def add(self, logits_BH: Tensor, batch: Batch) -> None:
        """Keep one batch; many together leave the device they are on."""
        logits_BH = logits_BH.detach().float()
        self._device = logits_BH.device
        self._parts.append(OutcomePiece(logits_BH, batch.labels_BK, batch.weight_B, batch.rows_B))
        self._waiting += len(batch)
        if self._waiting >= BLOCK_ROWS:
            self._seal()

    def _seal(self) -> None:
        """Make a piece of what was added since the last one."""
        if not self._parts:
            return
        piece = [torch.cat(parts).cpu().numpy() for parts in zip(*self._parts, strict=True)]
        if not self._columns:
            widths = [column.shape[1] if column.ndim > 1 else None for column in piece]
            self._columns = [
                self._spool.column(column.dtype, width)
                for column, width in zip(piece, widths, strict=True)
            ]
        for into, column in zip(self._columns, piece, strict=True):
            into.append(column)
        self._ends.append(len(self._columns[-1]))
        self._parts, self._waiting = [], 0

    def take(self) -> Iterator[OutcomePiece]:
        """Give what all ranks collected, piece by piece, without padding, and forget it.

        Collective: every rank iterates to the end; only rank 0 is given something. Where ranks read
        shares of the same global batches, rows come in the order of the log.
        """
        self._seal()
        together = dist.is_initialized() and dist.get_world_size() > 1
        rounds = len(self._ends) - 1
        if together:
            most = torch.tensor(rounds, device=self._device)
            dist.all_reduce(most, dist.ReduceOp.MAX)
            rounds = int(most)
        for number in range(rounds):
            start, stop = (self._ends[min(n, len(self._ends) - 1)] for n in (number, number + 1))
            columns = [torch.from_numpy(column.read(start, stop)) for column in self._columns]
            if together:
                columns = _on_rank_0([column.to(self._device) for column in columns])
            if columns:
                piece = OutcomePiece(*(column.cpu() for column in columns))
                order = piece.rows_B.argsort(stable=True)
                order = order[piece.rows_B[order] >= 0]
                yield OutcomePiece(*(column[order] for column in piece))
        self.clear()


def _on_rank_0(columns: list[Tensor]) -> list[Tensor]:
    """The rows of all ranks, one below the other; ranks may have more or fewer. Else nothing."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    length = torch.tensor([len(columns[0])], device=columns[0].device)
    lengths = [torch.empty_like(length) for _ in range(world_size)]
    dist.all_gather(lengths, length)
    longest = int(torch.stack(lengths).max())
    gathered = []
    for column in columns:
        padded = column.new_zeros(longest, *column.shape[1:])
        padded[: len(column)] = column
        parts = [torch.empty_like(padded) for _ in range(world_size)] if rank == 0 else None
        dist.gather(padded, parts)
        if parts is not None:
            real = [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]
            gathered.append(torch.cat(real))
    return gathered


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
