"""Tensors of a checkpoint: written by every rank, read in place by any number of them.

They are safetensors, by `torch.distributed.checkpoint`; its default format has a pickle in it.
"""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from recmtl.checkpoint.manifest import finish, verify
from recmtl.checkpoint.ranks import from_all, num_ranks, on_rank_0, rank, together
from recmtl.errors import CheckpointError

__all__ = ["load_into", "save"]

OWN_FILE_BYTES = 256 * 2**20
"""Larger tensors get a file of their own: a file is put together in memory before it is written."""


def save(folder: Path, tensors: Mapping[str, Any], state: Any) -> None:
    """Write a checkpoint that appears at `folder` whole or not at all.

    Collective over the default process group, where there is one.

    Args:
        folder: where it appears; one that is there already is replaced.
        tensors: logical key -> tensor, the same on every rank, or sharded tensor. A rank may leave
            out what it holds no shard of.
        state: JSON value (of rank 0).

    Raises:
        CheckpointError: `state` is no JSON value, or a rank could not write its part.
        OSError: a file could not be written, for example because the disk is full.
    """
    text = together(lambda: _as_text(folder, state))
    temporary = folder.with_name(on_rank_0(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"))
    try:
        together(lambda: temporary.mkdir(parents=True) if rank() == 0 else None)
        described = _described_by_all(tensors)
        _write_tensors(temporary, tensors, described)
        together(lambda: finish(temporary, folder, text, described) if rank() == 0 else None)
    finally:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def load_into(folder: Path, tensors: Mapping[str, Any]) -> None:
    """Read a checkpoint into existing tensors, in place, at any world size. Collective.

    Args:
        folder: a checkpoint.
        tensors: logical key -> tensor or sharded tensor, of the shape that was saved. A rank may
            leave out what it holds no shard of.

    Raises:
        CheckpointError: the checkpoint is corrupt, or lacks one of the tensors, or has it in
            another shape.
    """
    found = together(lambda: verify(folder, part=rank(), parts=num_ranks())["tensors"])
    together(lambda: _check_shapes(folder, tensors, found))
    if not any(from_all(bool(tensors))):
        return
    try:
        with _no_warnings():
            load(
                {key: _detached(tensor) for key, tensor in tensors.items()},
                storage_reader=HuggingFaceStorageReader(path=str(folder)),
                no_dist=num_ranks() == 1,
            )
    except CheckpointException as error:
        raise _as_error(folder, error) from error


def _write_tensors(folder: Path, tensors: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    if not described:
        return
    large = [key for key, about in described.items() if about["bytes"] > OWN_FILE_BYTES]
    file_of = dict.fromkeys(described, 1) | {key: i for i, key in enumerate(large, start=2)}
    writer = HuggingFaceStorageWriter(
        path=str(folder), fqn_to_index_mapping=file_of, save_distributed=True
    )
    try:
        with _no_warnings():
            save_distributed(
                {key: _detached(tensor) for key, tensor in tensors.items()},
                storage_writer=writer,
                no_dist=num_ranks() == 1,
            )
    except CheckpointException as error:
        raise _as_error(folder, error) from error


def _as_text(folder: Path, state: Any) -> str:
    try:
        return json.dumps(state, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the state cannot be written as JSON: {error}.") from error


def _check_shapes(folder: Path, tensors: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    problems = []
    for key, tensor in tensors.items():
        described = found.get(key)
        if described is None:
            problems.append(
                f"{folder}: holds no `{key}`; it belongs to another model or optimizer."
            )
        elif described["shape"] != (shape := _describe(tensor)["shape"]):
            problems.append(f"{folder}: `{key}` is {described['shape']}, the model needs {shape}.")
    if problems:
        raise CheckpointError.all_of(problems)


def _described_by_all(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What all ranks save, by key: the optimizer state of a table is known where its rows are."""
    mine = {key: _describe(tensor) for key, tensor in tensors.items()}
    found = {key: about for one in from_all(mine) for key, about in one.items()}
    return dict(sorted(found.items()))


def _describe(tensor: Any) -> dict[str, Any]:
    """Global shape, and dtype; asking a sharded tensor warns that its class will go one day."""
    with _no_warnings():
        return {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.size()),
            "bytes": tensor.size().numel() * tensor.dtype.itemsize,
        }


def _as_error(folder: Path, error: CheckpointException) -> Exception:
    """What went wrong on the first rank that failed: a full disk stays an OSError."""
    failed, (cause, _) = next(iter(error.failures.items()))
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return cause
    return CheckpointError(f"{folder}: rank {failed} failed: {type(cause).__name__}: {cause}")


def _detached(tensor: Any) -> Any:
    return tensor.detach() if type(tensor) in (Tensor, nn.Parameter) else tensor


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without torch's notes about the class of sharded tensors and about running in one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
