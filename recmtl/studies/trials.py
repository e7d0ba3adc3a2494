"""The trials of a search, kept as JSON lines to which one is added when a trial begins or ends.

A line of a beginning is ``{"trial": 3, "params": {...}}``; one of an end adds what it came to:
``{"trial": 3, "value": 0.71, "metrics": {...}, "seconds": 8.2}`` or ``{"trial": 3, "message":
"...", "exit_code": 2, "seconds": 0.1}``. What was killed in between is a trial that began and did
not end: it goes on with the same values.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recmtl._files import naming, write_text
from recmtl.errors import CheckpointError

__all__ = ["Trial", "TrialLog"]

_FINAL_CODES = (2, 3)
"""A spec or data that do not fit: the same trial would fail again."""
_BEGIN = {"trial", "params"}
_DONE = {"trial", "value", "metrics", "seconds"}
_FAILED = {"trial", "message", "exit_code", "seconds"}


@dataclass(frozen=True)
class Trial:
    """A trial, as far as it came.

    Attributes:
        number: from 0 on; 0 is the spec as it stands.
        params: values by key.
        value: the monitored metric of its best checkpoint; None before its end, or if it failed.
        metrics: all validation metrics of that checkpoint.
        seconds: that its process lived.
        message: why it failed, if it did.
        exit_code: what a failed one ended with.
    """

    number: int
    params: Mapping[str, Any]
    value: float | None = None
    metrics: Mapping[str, float | None] | None = None
    seconds: float | None = None
    message: str | None = None
    exit_code: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it has a value."""
        return self.value is not None

    @property
    def has_failed(self) -> bool:
        """Whether it came to nothing and would again."""
        return self.exit_code in _FINAL_CODES

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.is_complete or self.has_failed

    @property
    def name(self) -> str:
        """Of its files and folders."""
        return f"{self.number:03d}"


class TrialLog:
    """The trials of a folder.

    Args:
        file: where they are kept; it need not be there.

    Raises:
        CheckpointError: a line is not one that was written here.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._trials = list[Trial]()
        if file.is_file():
            self._read()

    def __len__(self) -> int:
        """How many began."""
        return len(self._trials)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    @property
    def trials(self) -> list[Trial]:
        """All that began, by number."""
        return list(self._trials)

    def begin(self, params: Mapping[str, Any]) -> Trial:
        """Note a new trial."""
        trial = Trial(len(self._trials), dict(params))
        self._append({"trial": trial.number, "params": trial.params})
        self._trials.append(trial)
        return trial

    def complete(
        self, number: int, value: float, metrics: Mapping[str, float | None], seconds: float
    ) -> Trial:
        """Note what a trial came to."""
        return self._end(number, {"value": value, "metrics": dict(metrics), "seconds": seconds})

    def fail(self, number: int, message: str, exit_code: int, seconds: float) -> Trial:
        """Note that a trial failed."""
        return self._end(number, {"message": message, "exit_code": exit_code, "seconds": seconds})

    def _end(self, number: int, said: Mapping[str, Any]) -> Trial:
        said = {**said, "seconds": round(said["seconds"], 1)}
        self._append({"trial": number, **said})
        self._trials[number] = Trial(number, self._trials[number].params, **said)
        return self._trials[number]

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False)  # ASCII: a torn line is text
        with naming(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        try:
            text = self._file.read_text(encoding="ascii")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._file}: is not ASCII text ({error.reason}).") from error
        *lines, rest = text.split("\n")
        for number, line in enumerate(lines, start=1):
            if not self._take(line):
                raise CheckpointError(
                    f"{self._file}:{number}: is no line that `recmtl tune` writes there; it was"
                    " changed or damaged. Restore it, or start anew with `--overwrite`."
                )
        if rest:  # what a killed process left of a line
            write_text(self._file, "".join(f"{line}\n" for line in lines))

    def _take(self, line: str) -> bool:
        """Take in one line; false where it does not follow from those before."""
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            return False
        if not isinstance(said, dict) or type(said.get("trial")) is not int:
            return False
        number = said.pop("trial")
        if set(said) == _BEGIN - {"trial"}:
            is_next = number == len(self._trials) and isinstance(said["params"], dict)
            if is_next:
                self._trials.append(Trial(number, said["params"]))
            return is_next
        if not 0 <= number < len(self._trials) or self._trials[number].is_complete:
            return False
        if set(said) == _DONE - {"trial"}:
            is_right = _is_number(said["value"]) and isinstance(said["metrics"], dict)
        else:
            is_right = (
                set(said) == _FAILED - {"trial"}
                and isinstance(said["message"], str)
                and type(said["exit_code"]) is int
            )
        if is_right and _is_number(said["seconds"]):
            began = Trial(number, self._trials[number].params)
            self._trials[number] = replace(began, **said)
            return True
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
