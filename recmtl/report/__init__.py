"""A run as one self-contained HTML page."""

from recmtl.report.page import write_report
from recmtl.report.summary import summarise

__all__ = ["summarise", "write_report"]
