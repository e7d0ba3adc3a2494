"""Dense features: fill, transform, normalise; everything in float64 until the end."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.problems import Problem
from recmtl.spec import DenseFeature

__all__ = ["LARGEST", "DenseFit", "DenseScale", "Filled", "normalise", "read_dense"]

LARGEST = float(np.finfo(np.float32).max)
"""Beyond it, a number is infinite to the model."""


class DenseScale(NamedTuple):
    """What is subtracted from a transformed value, and what the difference is divided by."""

    shift: float = 0.0
    scale: float = 1.0


class Filled(NamedTuple):
    """A column after `fill` and `transform`."""

    values: NDArray[np.float64]
    num_filled: int
    """Null, NaN and infinite values."""
    problems: list[Problem]
    """What the feature's rule forbids."""


def read_dense(feature: DenseFeature, values: pl.Series) -> Filled:
    """Fill and transform a column."""
    raw = values.cast(pl.Float64).to_numpy()  # nulls become NaN
    missing = ~np.isfinite(raw)
    num_missing = int(missing.sum())
    problems: list[Problem] = []
    if num_missing:
        if feature.fill is None:
            text = "values are null, NaN or infinite, and `fill` is null. Give `fill` a number."
            problems.append(Problem(feature.name, "missing", num_missing, text))
        raw = np.where(missing, feature.fill or 0.0, raw)
    if feature.transform == "log1p":
        num_negative = int((raw < 0).sum())
        if num_negative:
            text = (
                f"values are negative (for example {raw.min():g}), but `log1p` needs at least 0. "
                "Use `signed_log1p`."
            )
            problems.append(Problem(feature.name, "negative", num_negative, text))
            raw = np.maximum(raw, 0.0)
        raw = np.log1p(raw)
    elif feature.transform == "signed_log1p":
        raw = np.copysign(np.log1p(np.abs(raw)), raw)
    return Filled(raw, num_missing, problems)


def normalise(scale: DenseScale, values: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Write filled and transformed values to `out`, normalised.

    A value that lies absurdly far outside the training range stays finite: the largest float32.
    """
    with np.errstate(over="ignore"):  # infinite is clipped
        scaled = values if scale == DenseScale() else (values - scale.shift) / scale.scale
    out[:] = np.clip(scaled, -LARGEST, LARGEST)


class DenseFit:
    """Mean, variance and range of a column, piece by piece, in float64 (Chan et al., 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0
        self.low = math.inf
        self.high = -math.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """Take one piece in."""
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        squares = float(np.square(values - mean).sum())
        total = self.count + count
        gap = mean - self.mean
        self.squares += squares + gap * gap * self.count * count / total
        self.mean += gap * count / total
        self.count = total
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def scale(self, feature: DenseFeature) -> DenseScale:
        """What normalises the column; the divisor of a constant column is 1."""
        if feature.normalize == "none" or not self.count:
            return DenseScale()
        if feature.normalize == "minmax":
            return DenseScale(self.low, (self.high - self.low) or 1.0)
        # A constant column's deviation is rounding, not spread.
        std = math.sqrt(self.squares / self.count) if self.high > self.low else 0.0
        return DenseScale(self.mean, std or 1.0)
