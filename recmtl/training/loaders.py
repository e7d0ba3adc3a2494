"""Loaders that Lightning can resume in mid-epoch, at a position (epoch, batch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.distributed as dist

from recmtl.batch import Batch
from recmtl.data import Encoders, Log, batches_in_order
from recmtl.data.codes import Aside, read_aside
from recmtl.errors import CheckpointError
from recmtl.training.to_device import on_cuda

__all__ = ["TrainLoader", "ValidLoader"]


class Streams(Protocol):
    """An epoch of batches whose order is a function of (seed, epoch) alone."""

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start` + 1, ... of `epoch`."""


class TrainLoader:
    """Training batches of the epoch that the trainer is in.

    Lightning makes iterators before it knows where a restarted run goes on, so the position is
    settled when the first batch is asked for. It has a length: without one, Lightning reads a batch
    ahead and a restart would lose it.
    """

    def __init__(
        self,
        streams: Streams,
        current_epoch: Callable[[], int],
        device: torch.device | None = None,
    ) -> None:
        """Say where batches come from.

        Args:
            streams: where batches come from.
            current_epoch: the epoch that the trainer is in, counted from 0.
            device: where batches go; only a CUDA device gets them ahead of the step.
        """
        self._streams = streams
        self._current_epoch = current_epoch
        self._device = device
        self._epoch = 0
        self._batch = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self._streams.num_batches

    def __iter__(self) -> Iterator[Batch]:
        self._epoch, self._batch = self._current_epoch(), 0
        if self._resume is not None and self._resume[0] == self._epoch:
            self._batch = self._resume[1]
        self._resume = None
        batches = self._streams.batches(self._epoch, self._batch)
        if self._device is not None and self._device.type == "cuda":
            batches = on_cuda(batches, self._device)
        for batch in batches:
            self._batch += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position: `batch` batches of `epoch` were given out, out of `num_batches`."""
        epoch, batch = self._resume or (self._epoch, self._batch)
        return {"epoch": epoch, "batch": batch, "num_batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a position that `state_dict` gave."""
        if state["num_batches"] != len(self):
            raise CheckpointError(
                f"The checkpoint was made with {state['num_batches']:,} batches an epoch, now there"
                f" are {len(self):,}: the training data or `train.batch_size` changed. Resume with"
                " what it was started with."
            )
        self._resume = (state["epoch"], state["batch"])


class ValidLoader:
    """Batches in the order of the log, the same every time.

    Every process reads its share of each batch; shares are padded to equal size.
    """

    def __init__(self, log: Log, encoders: Encoders, *, batch_size: int) -> None:
        """Say which rows; they are read when iterated over.

        Args:
            log: labelled rows.
            encoders: fitted on the training rows.
            batch_size: rows of a global batch.
        """
        self._log = log
        self._encoders = encoders
        self._batch_size = batch_size
        self._aside: Aside | None = None

    def __len__(self) -> int:
        return -(-self._log.num_rows // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        together = dist.is_initialized() and dist.get_world_size() > 1
        return batches_in_order(
            self._log,
            self._encoders,
            batch_size=self._batch_size,
            labels=True,
            rank=dist.get_rank() if together else 0,
            world_size=dist.get_world_size() if together else 1,
            pad=together,
        )

    def aside(self, group: str | None, segments: Sequence[str], *, memory: int) -> Aside:
        """Groups and segments of all rows, in the order of the log, read once."""
        if self._aside is None:
            self._aside = read_aside(self._log, group, segments, memory=memory)
        return self._aside
