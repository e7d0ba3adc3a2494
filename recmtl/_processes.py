"""What a process and those that it starts need of one another: who they are, and why one failed."""

from __future__ import annotations

import os
import signal
import site
import traceback
from pathlib import Path
from typing import Any

import recmtl
from recmtl.errors import (
    CheckpointError,
    DataError,
    MissingExtraError,
    RecMTLError,
    SpecError,
)

__all__ = ["as_record", "environment", "from_record", "how_it_ended"]

_OURS = {
    error.__name__: error
    for error in (RecMTLError, SpecError, DataError, MissingExtraError, CheckpointError)
}


def environment(**own: str) -> dict[str, str]:
    """That of this process, what is `own` to the other one, and the place of this very package."""
    home = str(Path(recmtl.__file__).resolve().parent.parent)
    if home not in {str(Path(folder).resolve()) for folder in site.getsitepackages()}:
        paths = [os.environ.get("PYTHONPATH"), home]
        own["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {**os.environ, **own}


def as_record(error: BaseException) -> dict[str, Any]:
    """What another process needs to raise `error` in its turn, as JSON.

    Example:
        >>> as_record(DataError("a.parquet: empty."))["class"]
        'DataError'
    """
    named = next((c.__name__ for c in type(error).__mro__ if c in _OURS.values()), None)
    record: dict[str, Any] = {"class": named or type(error).__name__, "message": str(error)}
    if isinstance(error, OSError):
        name = None if error.filename is None else os.fspath(error.filename)
        record["os"] = [error.errno, error.strerror, name if isinstance(name, str) else None]
    record["traceback"] = "".join(traceback.format_exception(error))
    return record


def from_record(record: dict[str, Any], who: str) -> Exception:
    """The error that `as_record` described, to be raised in this process.

    Example:
        >>> from_record(as_record(DataError("a.parquet: empty.")), "process 1")
        DataError('a.parquet: empty.')
    """
    error: Exception
    if record["class"] in _OURS:
        error = _OURS[record["class"]](record["message"])
    elif "os" in record and record["os"][0] is not None:
        number, reason, name = record["os"]
        error = OSError(number, reason) if name is None else OSError(number, reason, name)
    else:
        error = RuntimeError(f"{who} failed: {record['class']}: {record['message']}")
    error.add_note(f"In {who}:\n{record['traceback']}")
    return error


def how_it_ended(code: int) -> str:
    """What the exit code of a process says, in words.

    Example:
        >>> how_it_ended(1), how_it_ended(-15)
        ('ended with exit code 1', 'was killed by signal 15 (SIGTERM)')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    how = f"was killed by signal {-code} ({names.get(-code, 'real-time')})"
    if code == -signal.SIGKILL:
        how += ", as the system does when memory runs out"
    return how
