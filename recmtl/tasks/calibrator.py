"""Calibrators: increasing maps from a head's logit to another, learned from what was observed.

Standard library and torch only. Shape letters: B rows, K knots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Calibration", "Calibrator", "calibrators_of"]


class Calibrator(NamedTuple):
    """A line through knots, in logits; it goes on beyond the first and the last one.

    A straight line has one knot.

    Example:
        >>> bent = Calibrator(at=(-2.0, 0.0), values=(-1.0, 0.0), below=1.0, above=2.0)
        >>> bent(torch.tensor([-3.0, -1.0, 1.0]))
        tensor([-2.0000, -0.5000,  2.0000])
    """

    at: tuple[float, ...]
    """Logits of the knots, ascending."""
    values: tuple[float, ...]
    """What they become, ascending."""
    below: float
    """Slope before the first knot."""
    above: float
    """Slope after the last one."""

    def __call__(self, z_B: Tensor) -> Tensor:
        """The calibrated logits `[B]`."""
        found: Tensor = _Line(self)(z_B)
        return found

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Calibrator:
        """From what `_asdict` gave, read from JSON.

        Raises:
            ValueError: it is no increasing line.
        """
        found = cls(
            at=tuple(map(float, stored["at"])),
            values=tuple(map(float, stored["values"])),
            below=float(stored["below"]),
            above=float(stored["above"]),
        )
        numbers = (*found.at, *found.values, found.below, found.above)
        if (
            not found.at
            or len(found.at) != len(found.values)
            or not all(map(math.isfinite, numbers))
            or not all(slope > 0 for slope in found.slopes)
        ):
            raise ValueError(f"no increasing line: {stored}")
        return found

    @property
    def slopes(self) -> tuple[float, ...]:
        """Slope before the first knot, between each two, and after the last one."""
        steps = [
            (v2 - v1) / (x2 - x1) if x2 > x1 else -1.0
            for x1, x2, v1, v2 in zip(
                self.at, self.at[1:], self.values, self.values[1:], strict=False
            )
        ]
        return (self.below, *steps, self.above)


def calibrators_of(calibration: Mapping[str, Any]) -> dict[str, Calibrator]:
    """The calibrator of each task, of what a run keeps as `calibration.json`; none of nothing."""
    tasks = calibration.get("tasks", {})
    return {name: Calibrator.of(task["calibrator"]) for name, task in tasks.items()}


class Calibration(nn.Module):
    """The calibrators of some heads; it has no parameters and no state.

    Args:
        calibrators: those of the heads, by the number of the head's logit.
    """

    def __init__(self, calibrators: Mapping[int, Calibrator]) -> None:
        """Lay the knots out."""
        super().__init__()
        self.lines = nn.ModuleDict({str(h): _Line(c) for h, c in calibrators.items()})

    def forward(self, z_BH: Tensor) -> Tensor:
        """Calibrated logits `[B, H]`; heads without a calibrator keep theirs."""
        columns = list(z_BH.unbind(dim=1))
        for h, line in self.lines.items():
            columns[int(h)] = line(columns[int(h)])
        return torch.stack(columns, dim=1)


class _Line(nn.Module):
    """One calibrator: which piece a logit is on, and the line there."""

    at_K: Tensor
    start_P: Tensor
    value_P: Tensor
    slope_P: Tensor

    def __init__(self, calibrator: Calibrator) -> None:
        super().__init__()
        at, values = calibrator.at, calibrator.values

        def keep(name: str, numbers: tuple[float, ...]) -> None:
            tensor = torch.tensor(numbers, dtype=torch.float32)
            self.register_buffer(name, tensor, persistent=False)

        keep("at_K", at)
        keep("start_P", (at[0], *at))
        keep("value_P", (values[0], *values))
        keep("slope_P", calibrator.slopes)

    def forward(self, z_B: Tensor) -> Tensor:
        # Comparisons, and no search, which exported programs cannot all do.
        piece_B = (z_B.unsqueeze(1) >= self.at_K.to(z_B.dtype)).sum(dim=1)
        start_B = self.start_P.to(z_B.dtype)[piece_B]
        return self.value_P.to(z_B.dtype)[piece_B] + self.slope_P.to(z_B.dtype)[piece_B] * (
            z_B - start_B
        )
