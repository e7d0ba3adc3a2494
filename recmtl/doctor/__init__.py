"""Findings about a spec and its data, before anything is trained."""

from recmtl.doctor.examine import examine, require_healthy, require_model
from recmtl.doctor.findings import Finding, exit_code
from recmtl.doctor.guess import guess_spec
from recmtl.doctor.values import encode_all

__all__ = [
    "Finding",
    "encode_all",
    "examine",
    "exit_code",
    "guess_spec",
    "require_healthy",
    "require_model",
]
