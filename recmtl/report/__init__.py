"""A run as one self-contained HTML page."""

from recmtl.report.page import Report, make_report, write_report
from recmtl.report.summary import summarise

__all__ = ["Report", "make_report", "summarise", "write_report"]
