"""Finding: one thing that the doctor noticed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recmtl.errors import RecMTLError

__all__ = ["Finding", "by_severity", "from_error", "raise_errors"]

_ORDER = {"error": 0, "warning": 1, "info": 2}


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


def by_severity(findings: list[Finding]) -> list[Finding]:
    """The findings with errors first; those of one severity keep their order."""
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])


def from_error(error: RecMTLError) -> list[Finding]:
    """The problems that an error lists, a finding each."""
    findings = []
    for line in str(error).splitlines():
        where, separator, what = line.partition(": ")
        found = (where, what) if separator else ("spec" if error.exit_code == 2 else "data", line)
        findings.append(Finding("error", *found, exit_code=error.exit_code))
    return findings


def raise_errors(findings: list[Finding], kinds: dict[int, type[RecMTLError]]) -> None:
    """Raise the errors among the findings, all at once, as the kind of the lowest exit code."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        code = min(finding.exit_code for finding in errors)
        raise kinds[code].all_of([f"{f.where}: {f.what} {f.advice}".rstrip() for f in errors])
