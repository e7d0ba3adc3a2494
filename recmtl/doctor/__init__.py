"""Findings about a spec and its data, before anything is trained."""

from recmtl.doctor.examine import examine, require_healthy, require_memory
from recmtl.doctor.findings import Finding

__all__ = ["Finding", "examine", "require_healthy", "require_memory"]
