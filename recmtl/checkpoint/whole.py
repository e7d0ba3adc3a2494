"""Whole tensors of a checkpoint, with torch and safetensors alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recmtl.checkpoint.manifest import read_manifest
from recmtl.errors import CheckpointError

__all__ = ["load_full"]

_MALFORMED = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)
"""What comes of a file whose content is well-formed, but not what recmtl writes."""


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
    manifest = read_manifest(folder)
    wanted = {
        key: described
        for key, described in manifest["tensors"].items()
        if key.startswith(prefix) and key.endswith(suffix)
    }
    whole: dict[str, Tensor] = {}
    filled = dict.fromkeys(wanted, 0)
    # No file makes us allocate more than all files hold (a value takes a byte at least).
    room = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for name in sorted(n for n in manifest["files"] if n.endswith(".safetensors")):
        path = folder / name
        try:
            with safe_open(path, framework="pt") as file:
                offsets = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
                for key in wanted.keys() & set(file.keys()):
                    part, shape = file.get_tensor(key), wanted[key]["shape"]
                    if str(part.dtype) != f"torch.{wanted[key]['dtype']}":
                        continue  # reported below as not whole
                    filled[key] += part.numel()
                    if list(part.shape) == shape:
                        whole[key] = part
                        continue
                    if math.prod(shape) > room:
                        continue  # reported below as not whole
                    target = whole.setdefault(key, torch.empty(shape, dtype=part.dtype))
                    starts = offsets[key]["saved_offsets"]
                    target[
                        tuple(slice(o, o + n) for o, n in zip(starts, part.shape, strict=True))
                    ] = part
        except (SafetensorError, OSError, *_MALFORMED) as error:
            raise CheckpointError(
                f"{path}: cannot be read ({error}). Restore it, or use another checkpoint."
            ) from error
    for key in wanted:
        if key not in whole or filled[key] != whole[key].numel():
            raise CheckpointError(
                f"{folder}: `{key}` is not whole; a file of the checkpoint is missing or foreign."
            )
    return {key.removeprefix(prefix).removesuffix(suffix): whole[key] for key in wanted}
