"""Python state <-> JSON, for what a checkpoint holds beside tensors.

JSON has no tuples, infinities, small tensors or keys other than strings; those are written as
``{"$tuple": [...]}`` and so on. Anything else is refused: a pickle on disk would run code when it
is loaded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recmtl.errors import CheckpointError

__all__ = ["from_json", "to_json"]

_MALFORMED = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)
_LARGEST_TENSOR = 10_000
_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float32, torch.float64, torch.int64, torch.int32, torch.bool)
}


def to_json(value: Any, *, where: str) -> Any:
    """`value` as what JSON can hold.

    Args:
        value: nested dicts, lists, tuples, numbers, strings, paths and small tensors.
        where: whose state this is, for the message.

    Raises:
        CheckpointError: the state holds something else.

    Example:
        >>> to_json({"best": torch.tensor(0.5), "at": (1, float("inf"))}, where="callback `A`")
        {'best': {'$tensor': [0.5], 'dtype': 'float32', 'shape': []},
         'at': {'$tuple': [1, {'$float': 'inf'}]}}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return {"$path": str(value)}
    if isinstance(value, Tensor):
        return _tensor_to_json(value, where)
    if isinstance(value, tuple | list):
        items = [to_json(item, where=where) for item in value]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        pairs = [(key, to_json(item, where=where)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict": [[to_json(key, where=where), item] for key, item in pairs]}
    raise CheckpointError(
        f"{where}: its state holds a `{type(value).__name__}`, which a checkpoint cannot hold (only"
        " numbers, strings, lists, dicts and small tensors; nothing is pickled). Return such values"
        " from its `state_dict`."
    )


def _tensor_to_json(tensor: Tensor, where: str) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _DTYPES or tensor.numel() > _LARGEST_TENSOR:
        raise CheckpointError(
            f"{where}: its state holds a {dtype} tensor of {tensor.numel():,} values; expected one"
            f" of {sorted(_DTYPES)} with at most {_LARGEST_TENSOR:,}. Register larger ones as"
            " buffers of the module."
        )
    values = [to_json(v, where=where) for v in tensor.detach().cpu().flatten().tolist()]
    return {"$tensor": values, "dtype": dtype, "shape": list(tensor.shape)}


def from_json(value: Any) -> Any:
    """What `to_json` was given.

    Raises:
        CheckpointError: `to_json` never gave that.

    Example:
        >>> from_json(to_json({"a": (1, None), 2: float("-inf")}, where="x"))
        {'a': (1, None), 2: -inf}
    """
    try:
        return _from_json(value)
    except _MALFORMED as error:
        raise CheckpointError(
            f"the state of a checkpoint was not written by recmtl ({type(error).__name__}:"
            f" {str(error)[:200]}). Use another checkpoint."
        ) from error


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return float(value["$float"])
    if "$path" in value:
        return Path(value["$path"])
    if "$tuple" in value:
        return tuple(_from_json(value["$tuple"]))
    if "$dict" in value:
        return {_from_json(key): _from_json(item) for key, item in value["$dict"]}
    if "$tensor" in value:
        return torch.tensor(_from_json(value["$tensor"]), dtype=_DTYPES[value["dtype"]]).reshape(
            value["shape"]
        )
    return {key: _from_json(item) for key, item in value.items()}
