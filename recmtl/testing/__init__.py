"""The conformance kit: what every tower promises, as checks to run on your own."""

from __future__ import annotations

from recmtl.testing.conformance import assert_tower_ok

__all__ = ["assert_tower_ok"]
