"""Studies: questions that take several runs to answer."""

from recmtl.studies.compare import compare

__all__ = ["compare"]
