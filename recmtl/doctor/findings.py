"""Finding: one thing that the doctor noticed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from recmtl.errors import CheckpointError, DataError, MissingExtraError, RecMTLError, SpecError

__all__ = ["Finding", "by_severity", "exit_code", "from_error", "raise_errors"]

_ORDER = {"error": 0, "warning": 1, "info": 2}
_KINDS: tuple[type[RecMTLError], ...] = (SpecError, DataError, MissingExtraError, CheckpointError)
_PLACES = {2: "spec", 3: "data", 4: "versions"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor noticed, and what to do about it."""

    severity: Literal["error", "warning", "info"]
    """`error`: training refuses; `warning`: training goes on, look at it; `info`: good to know."""
    where: str
    """File, column, task or package."""
    what: str
    """What is the case."""
    advice: str = ""
    """What to do."""
    exit_code: int = 0
    """What the command line ends with because of it (0 unless it is an error)."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.advice}".rstrip()


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The findings with errors first; those of one severity keep their order."""
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def exit_code(findings: Iterable[Finding]) -> int:
    """What `train` would end with: the code of the first error, or 0.

    Example:
        >>> exit_code([Finding("warning", "a", "b"), Finding("error", "a", "b", exit_code=3)])
        3
    """
    return next((found.exit_code for found in findings if found.severity == "error"), 0)


def from_error(error: RecMTLError) -> list[Finding]:
    """The problems that an error lists, a finding each.

    Example:
        >>> found = from_error(SpecError("a.yaml:3: `dims` is unknown."))[0]
        >>> found.where, found.what
        ('a.yaml:3', '`dims` is unknown.')
    """
    findings = []
    for line in str(error).splitlines():
        where, separator, what = line.partition(": ")
        if not separator or ". " in where or ";" in where:  # a sentence, not a place
            where, what = _PLACES.get(error.exit_code, "recmtl"), line
        findings.append(Finding("error", where, what, exit_code=error.exit_code))
    return findings


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise the errors among the findings, all of the first one's kind at once.

    Raises:
        RecMTLError: of the kind that the first error's exit code stands for.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        code = errors[0].exit_code
        kind = next(kind for kind in _KINDS if kind.exit_code == code)
        raise kind.all_of([str(finding) for finding in errors if finding.exit_code == code])
