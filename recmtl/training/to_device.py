"""Batches on a CUDA device: the next one is copied while the step runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from recmtl.batch import Batch
from recmtl.data.prefetch import prefetched
from recmtl.training.compiled import CAPTURING

__all__ = ["on_cuda"]

_PINNED_AHEAD = 2


def on_cuda(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order, on `device`.

    A thread puts them into pinned memory, from where a stream of its own copies each one while the
    step before it runs. A batch is given out on the stream that is current then.
    """
    stream = torch.cuda.Stream(device)
    before: tuple[Batch, torch.cuda.Event] | None = None
    for batch in prefetched(_pinned(batches, device), ahead=_PINNED_AHEAD):
        with torch.cuda.stream(stream):
            coming = batch.to(device, non_blocking=True)
        copied = stream.record_event()
        if before is not None:
            yield _arrived(*before)
        before = coming, copied
    if before is not None:
        yield _arrived(*before)


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """A batch whose copy the current stream waits for, and which its memory is kept for."""
    current = torch.cuda.current_stream(batch.weight_B.device)
    current.wait_event(copied)

    def kept(tensor: Tensor) -> Tensor:
        tensor.record_stream(current)  # it was allocated on the copy stream
        return tensor

    return batch.each(kept)


def _pinned(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    for batch in batches:
        with CAPTURING, torch.cuda.device(device):
            ready = batch.each(Tensor.pin_memory)
        yield ready
