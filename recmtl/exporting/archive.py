"""PyTorch's archives (`.pt2`): whether one holds what we write, and nothing that is unpickled."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from recmtl.errors import CheckpointError

__all__ = ["require_no_pickle"]

_COMMON = r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)"
_CONFIG = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_SAMPLES = "data/sample_inputs/model.pt"
_NAMES = {
    "torch-export": re.compile(
        rf"{_COMMON}|models/model\.json|{_SAMPLES}|{_CONFIG.pattern}"
        r"|data/weights/weight_\d+|data/constants/tensor_\d+"
    ),
    "aoti": re.compile(rf"{_COMMON}|data/aotinductor/model/[^/]+"),
}


def require_no_pickle(path: Path, *, kind: str) -> None:
    """Require of an archive that nothing in it would be unpickled when torch reads it.

    torch keeps weights as plain bytes and the graph as JSON. What it would unpickle are examples of
    the inputs, which are never written here, objects that are no tensors, and weights of old
    formats.

    Args:
        path: the archive.
        kind: `torch-export` or `aoti`.

    Raises:
        CheckpointError: it is no archive, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        # What torch itself will see: an archive can have one list of entries for each reader.
        reader = torch._C.PyTorchFileReader(str(path))
        seen = reader.get_all_records()
        configs = {
            name: json.loads(reader.get_record(name)) for name in seen if _CONFIG.fullmatch(name)
        }
        samples = reader.get_record(_SAMPLES) if _SAMPLES in seen else b""
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: is not an archive of torch ({error}).") from error
    foreign = [name for name in names if not _NAMES[kind].fullmatch(_inside(name))]
    foreign += [name for name in seen if not _NAMES[kind].fullmatch(name)]
    foreign += [_SAMPLES] if samples else []
    foreign += [name for name, config in configs.items() if _mentions_pickle(config)]
    roots = {name.partition("/")[0] for name in names}
    if len(set(names)) < len(names) or len(roots) > 1 or seen != [_inside(name) for name in names]:
        foreign.append(seen[-1])
    if foreign:
        raise CheckpointError(
            f"{path}: holds `{foreign[0]}`, which recmtl does not write and torch might unpickle. "
            "It is not read; export the run again."
        )


def _inside(name: str) -> str:
    """The name without the archive's own folder."""
    return name.partition("/")[2]


def _mentions_pickle(config: Any) -> bool:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        return True
    return any(
        not isinstance(entry, dict) or entry.get("use_pickle") is not False
        for entry in entries.values()
    )
