"""A failure on its way from the process where it happened to the one that says so."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from recmtl import _processes
from recmtl.errors import CheckpointError, RecMTLError

__all__ = ["OtherRankError", "as_record", "from_record", "is_lost_peer"]

_LOST = ("gloo/transport/", "closed by peer", "reset by peer")


class OtherRankError(RecMTLError):
    """Another process of this training failed, and it is the one that says why.

    Attributes:
        code: what that process exits with.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def as_record(error: BaseException) -> dict[str, Any]:
    """What another process needs to raise `error` in its turn, as JSON.

    Example:
        >>> from recmtl.errors import DataError
        >>> as_record(DataError("a.parquet: empty."))["class"]
        'DataError'
    """
    record = _processes.as_record(error)
    record["lost_peer"] = is_lost_peer(error)
    record["code"] = getattr(error, "exit_code", 1)
    if isinstance(error, KeyboardInterrupt):
        record["code"] = 130
    return record


def from_record(record: dict[str, Any], rank: int) -> Exception:
    """The error that `as_record` described, to be raised in this process.

    Example:
        >>> from recmtl.errors import DataError
        >>> from_record(as_record(DataError("a.parquet: empty.")), rank=1)
        DataError('a.parquet: empty.')
    """
    return _processes.from_record(record, f"process {rank}")


def is_lost_peer(error: BaseException) -> bool:
    """Whether this says no more than that another process is gone.

    Example:
        >>> is_lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))
        True
    """
    if isinstance(error, dist.DistError):
        return True
    if not isinstance(error, RuntimeError | CheckpointError):
        return False
    return any(words in str(error) for words in _LOST)
