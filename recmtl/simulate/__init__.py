"""Worlds whose truth is known."""

from recmtl.simulate.simulate import SimulationSummary, simulate

__all__ = ["SimulationSummary", "simulate"]
