"""The format of checkpoints on disk: tensors and a JSON state in a folder, nothing pickled.

``step-00001234/`` holds

- ``*.safetensors``: tensors under logical keys such as ``tables/item_id/weight`` or
  ``net/tower.heads...``, written by `torch.distributed.checkpoint`, each rank its own shards,
- ``state.json``: the JSON value given to `save`,
- ``files.json``: format, size and sha256 of each other file, shape and dtype of each whole tensor.

It appears by a rename, so it is whole or absent. ``checkpoints/index.json`` names the best and the
last one.
"""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from recmtl._files import publish_folder, sha256_of, write_json
from recmtl.errors import CheckpointError

__all__ = [
    "Index",
    "best",
    "fingerprint",
    "last",
    "load_full",
    "load_into",
    "read_index",
    "read_state",
    "save",
    "verify",
    "write_index",
]

_T = TypeVar("_T")

FORMAT = 1
_FILES = "files.json"
_STATE = "state.json"
_INDEX = "index.json"
_OWN_FILE_BYTES = 256 * 2**20
"""Larger tensors get a file of their own: a file is put together in memory before it is written."""


class Index(NamedTuple):
    """Which checkpoints of a run matter, by the name of their folder."""

    best: str | None = None
    last: str | None = None


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
    try:
        text = json.dumps(state, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the state cannot be written as JSON: {error}.") from error
    temporary = folder.with_name(_on_rank_0(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp"))
    try:
        _together(lambda: temporary.mkdir(parents=True) if _rank() == 0 else None)
        described = _described_by_all(tensors)
        _write_tensors(temporary, tensors, described)
        _together(lambda: _finish(temporary, folder, text, described) if _rank() == 0 else None)
    finally:
        if _rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)


def load_into(folder: Path, tensors: Mapping[str, Any]) -> None:
    """Read a checkpoint into existing tensors, in place, at any world size. Collective.

    Args:
        folder: a checkpoint.
        tensors: logical key -> tensor or sharded tensor of the same global shape as when it was
        saved.

    Raises:
        CheckpointError: the checkpoint is corrupt, or lacks one of the tensors, or has it in
        another shape.
    """
    found = _together(lambda: verify(folder)["tensors"])
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
    if not tensors:
        return
    try:
        with _no_warnings():
            load(
                {key: _detached(tensor) for key, tensor in tensors.items()},
                storage_reader=HuggingFaceStorageReader(path=str(folder)),
                no_dist=not _is_distributed(),
            )
    except CheckpointException as error:
        raise _as_error(folder, error) from error


def load_full(folder: Path, prefix: str = "", suffix: str = "") -> dict[str, Tensor]:
    """Whole tensors by their keys, on the CPU, with torch and safetensors alone.

    Any number of ranks may have written them. A tensor that one file holds whole is memory-mapped:
    it costs memory only where it is read. Nothing is hashed here; see `verify`.

    Args:
        folder: a checkpoint.
        prefix: only keys that begin with it, which is taken off them.
        suffix: only keys that end with it, which is taken off them.

    Raises:
        CheckpointError: a file is missing or truncated, or a tensor is incomplete.
    """
    manifest = _manifest(folder)
    wanted = {
        key: described
        for key, described in manifest["tensors"].items()
        if key.startswith(prefix) and key.endswith(suffix)
    }
    whole: dict[str, Tensor] = {}
    filled = dict.fromkeys(wanted, 0)
    for name in sorted(n for n in manifest["files"] if n.endswith(".safetensors")):
        path = folder / name
        try:
            with safe_open(path, framework="pt") as file:
                offsets = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
                for key in wanted.keys() & set(file.keys()):
                    part, shape = file.get_tensor(key), wanted[key]["shape"]
                    filled[key] += part.numel()
                    if list(part.shape) == shape:
                        whole[key] = part
                        continue
                    target = whole.setdefault(key, torch.empty(shape, dtype=part.dtype))
                    starts = offsets[key]["saved_offsets"]
                    target[
                        tuple(slice(o, o + n) for o, n in zip(starts, part.shape, strict=True))
                    ] = part
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}). Restore it, or use another checkpoint."
            ) from error
    for key in wanted:
        if key not in whole or filled[key] != whole[key].numel():
            raise CheckpointError(
                f"{folder}: `{key}` is not whole; a file of the checkpoint is missing or foreign."
            )
    return {key.removeprefix(prefix).removesuffix(suffix): whole[key] for key in wanted}


def read_state(folder: Path) -> Any:
    """The JSON value that was given to `save`.

    Raises:
        CheckpointError: `folder` is no checkpoint, or the state does not have its sha256.
    """
    manifest = _manifest(folder)
    _check_file(folder, _STATE, manifest["files"].get(_STATE))
    return _read_json(folder / _STATE)


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file of a checkpoint with its recorded size and sha256.

    Returns:
        The content of ``files.json``: ``format``, ``files`` and ``tensors``.

    Raises:
        CheckpointError: a file is missing, truncated or changed (each is named), or the folder is
        no checkpoint or one
            of a newer recmtl.
    """
    manifest = _manifest(folder)
    problems = []
    for name, recorded in manifest["files"].items():
        try:
            _check_file(folder, name, recorded)
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError.all_of(problems)
    return manifest


def fingerprint(folder: Path) -> str:
    """One sha256 for all that a checkpoint holds: that of its ``files.json``.

    Copies share it; saving equal tensors once more may give another one.
    """
    _manifest(folder)
    return sha256_of(folder / _FILES)


def read_index(checkpoints: Path) -> Index:
    """Best and last checkpoint of a run; both None where none was written yet.

    Raises:
        CheckpointError: ``index.json`` is corrupt or names a checkpoint that is not there.
    """
    path = checkpoints / _INDEX
    if not path.is_file():
        return Index()
    value = _read_json(path)
    if not isinstance(value, dict) or not set(value) >= {"best", "last"}:
        raise CheckpointError(
            f"{path}: expected the keys `best` and `last`; it was not written by recmtl."
        )
    index = Index(value["best"], value["last"])
    missing = [
        n for n in dict.fromkeys(index) if n is not None and not (checkpoints / str(n)).is_dir()
    ]
    if missing:
        raise CheckpointError.all_of(
            [f"{checkpoints / str(n)}: missing, but {path} names it." for n in missing]
        )
    return index


def write_index(checkpoints: Path, *, best: str | None, last: str | None) -> None:
    """Name the best and the last checkpoint of a run, atomically."""
    write_json(checkpoints / _INDEX, {"best": best, "last": last})


def best(checkpoints: Path) -> Path:
    """Folder of the best checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    return _named(checkpoints, read_index(checkpoints).best)


def last(checkpoints: Path) -> Path:
    """Folder of the last checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    return _named(checkpoints, read_index(checkpoints).last)


def _named(checkpoints: Path, name: str | None) -> Path:
    if name is None:
        raise CheckpointError(f"{checkpoints}: holds no checkpoint yet; train the run first.")
    return checkpoints / name


def _write_tensors(folder: Path, tensors: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    if not described:
        return
    large = [key for key, about in described.items() if about["bytes"] > _OWN_FILE_BYTES]
    file_of = dict.fromkeys(described, 1) | {key: i for i, key in enumerate(large, start=2)}
    writer = HuggingFaceStorageWriter(
        path=str(folder), fqn_to_index_mapping=file_of, save_distributed=True
    )
    try:
        with _no_warnings():
            save_distributed(
                {key: _detached(tensor) for key, tensor in tensors.items()},
                storage_writer=writer,
                no_dist=not _is_distributed(),
            )
    except CheckpointException as error:
        raise _as_error(folder, error) from error


def _finish(temporary: Path, folder: Path, state: str, described: dict[str, Any]) -> None:
    (temporary / _STATE).write_text(state + "\n", encoding="utf-8")
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)}
        for p in sorted(temporary.iterdir())
    }
    write_json(temporary / _FILES, {"format": FORMAT, "files": files, "tensors": described})
    publish_folder(temporary, folder)


def _manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is no folder, expected a checkpoint.")
    path = folder / _FILES
    if not path.is_file():
        raise CheckpointError(f"{folder}: is no checkpoint of recmtl, `{_FILES}` is missing.")
    manifest = _read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{path}: was not written by recmtl, it has no `format`.")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: has format {manifest['format']}, this recmtl reads up to {FORMAT}. "
            "Upgrade recmtl to read it."
        )
    for key in ("files", "tensors"):
        if not isinstance(manifest.get(key), dict):
            raise CheckpointError(f"{path}: was not written by recmtl, it has no `{key}`.")
    for name, recorded in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing. Restore it, or use another checkpoint.")
        if file.stat().st_size != recorded["bytes"]:
            raise CheckpointError(
                f"{file}: has {file.stat().st_size:,} bytes, expected {recorded['bytes']:,}. "
                "Restore it, or use another checkpoint."
            )
    return manifest


def _check_file(folder: Path, name: str, recorded: Any) -> None:
    path = folder / name
    if recorded is None:
        raise CheckpointError(
            f"{folder / _FILES}: does not list `{name}`; it was not written by recmtl."
        )
    if sha256_of(path) != recorded["sha256"]:
        raise CheckpointError(
            f"{path}: its sha256 is not the recorded one; it was changed or damaged. "
            "Restore it, or use another checkpoint."
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).") from error


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def _on_rank_0(value: str) -> str:
    """Rank 0's value, on every rank."""
    if not _is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _together(work: Callable[[], _T]) -> _T:
    """Do `work` on this rank; where one rank fails, all fail, so that none waits for ever."""
    result: _T | None = None
    problem: OSError | CheckpointError | None = None
    try:
        result = work()
    except (OSError, CheckpointError) as error:
        problem = error
    if _is_distributed():
        problems: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(problems, problem)
        problem = next((p for p in problems if p is not None), None)
    if problem is not None:
        raise problem
    return cast("_T", result)


def _as_error(folder: Path, error: CheckpointException) -> Exception:
    """What went wrong on the first rank that failed: a full disk stays an OSError."""
    rank, (cause, _) = next(iter(error.failures.items()))
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return cause
    return CheckpointError(f"{folder}: rank {rank} failed: {type(cause).__name__}: {cause}")


def _detached(tensor: Any) -> Any:
    return tensor.detach() if type(tensor) in (Tensor, nn.Parameter) else tensor


def _described_by_all(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What all ranks save, by key: the optimizer state of a table is known where its rows are."""
    mine = {key: _describe(tensor) for key, tensor in tensors.items()}
    everyone = [mine]
    if _is_distributed():
        everyone = [mine] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
    return dict(sorted({key: about for one in everyone for key, about in one.items()}.items()))


def _describe(tensor: Any) -> dict[str, Any]:
    """Global shape, and dtype; asking a sharded tensor warns that its class will go one day."""
    with _no_warnings():
        return {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.size()),
            "bytes": tensor.size().numel() * tensor.dtype.itemsize,
        }


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Without torch's notes about the class of sharded tensors and about running in one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
