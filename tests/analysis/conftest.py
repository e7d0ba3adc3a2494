"""Runs that are unusual."""

from __future__ import annotations

from tests.report.conftest import odd_run, plain_run

__all__ = ["odd_run", "plain_run"]
