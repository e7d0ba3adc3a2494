"""How numbers are distributed, in counts that add up: moments, quantiles, population stability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUPS", "Distribution", "psi", "psi_by_chance"]

GROUPS = 10
"""Groups of about equal share that two distributions are compared in."""
_LEAST_SHARE = 1e-4
_LEAST_SCALE = 1e-30
_SHIFT = 18  # of the 23 bits of a float32's fraction: 32 bins from a power of two to the next
_BLOCK = 4096
_HALF = int(np.float32(0.5).view(np.int32)) >> _SHIFT
_INF = int(np.float32(np.inf).view(np.int32)) >> _SHIFT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Distribution:
    """Counts of bins that are at most 3 % wide, mean, deviation and range of numbers.

    Pieces add up: the counts whatever the order, the moments to the last bit where pieces are whole
    blocks of 4,096 numbers and are added in one order. Bins are fixed, and no logarithm decides
    about them: those of probabilities grow finer towards 0 and towards 1, those of other numbers
    towards `shift`.

    Args:
        kind: `probability` (from 0 to 1), or any `number`.
        shift: of numbers, what is subtracted before they are counted, such as a usual mean.
        scale: of numbers, what the difference is divided by, such as a usual deviation; 0 (as that
            of a constant) means 1.

    Example:
        >>> found = Distribution("number")
        >>> found.add(np.array([1.0, 2.0, 3.0, np.nan], np.float32))
        >>> found.count, found.mean, round(found.std, 4), found.low, found.high, found.not_finite
        (3, 2.0, 0.8165, 1.0, 3.0, 1)
        >>> found.quantile(0.5)  # in a bin that begins with 2
        2.03125
    """

    def __init__(
        self,
        kind: Literal["probability", "number"],
        *,
        shift: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.kind, self.shift = kind, shift
        self.scale = scale if scale > _LEAST_SCALE else 1.0
        num_bins = 2 * _HALF + 1 if kind == "probability" else 2 * _INF + 2
        self.bins: Ints = np.zeros(num_bins, np.int64)
        self.count = 0
        """Finite numbers."""
        self.not_finite = 0
        """NaN and infinite numbers; nothing else counts them."""
        self.mean = 0.0
        self.low, self.high = math.inf, -math.inf
        self._squares = 0.0

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count numbers."""
        whole = len(values) // _BLOCK * _BLOCK
        self._add(values[:whole].reshape(-1, _BLOCK))
        self._add(values[whole:].reshape(1, -1))

    def merge(self, other: Distribution) -> None:
        """Add what another one of the same kind, shift and scale counted."""
        self._merge(other.count, other.mean, other._squares, other.low, other.high)
        self.not_finite += other.not_finite
        self.bins += other.bins

    def quantile(self, share: float) -> float:
        """The number below which a share of all lies, within 3 % (of numbers: less `shift`)."""
        ends = self.bins.cumsum()
        at = int(np.searchsorted(ends, share * self.count))
        at = min(at, int(np.flatnonzero(self.bins)[-1]))
        before = int(ends[at] - self.bins[at])
        inside = (share * self.count - before) / int(self.bins[at])
        low, high = self._edge(at), self._edge(at + 1)
        found = (low + (high - low) * inside) * self.scale + self.shift
        return min(max(found, self.low), self.high)

    def psi(self, reference: Distribution) -> float:
        """Population stability index against another one, in its tenths."""
        group_of = _tenths(reference.bins)
        shares = [
            np.bincount(group_of, weights=d.bins, minlength=GROUPS) for d in (reference, self)
        ]
        has_any = (shares[0] > 0) | (shares[1] > 0)
        return psi(shares[0][has_any], shares[1][has_any])

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, ready for JSON."""
        (at,) = np.nonzero(self.bins)
        return {
            "kind": self.kind,
            "shift": self.shift,
            "scale": self.scale,
            "count": self.count,
            "not_finite": self.not_finite,
            "moments": [self.mean, self._squares, self.low, self.high] if self.count else None,
            "bins": at.tolist(),
            "counts": self.bins[at].tolist(),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Distribution:
        """What `to_dict` gave."""
        new = cls(found["kind"], shift=found["shift"], scale=found["scale"])
        new.count, new.not_finite = found["count"], found["not_finite"]
        if found["moments"] is not None:
            new.mean, new._squares, new.low, new.high = found["moments"]
        new.bins[found["bins"]] = found["counts"]
        return new

    def _add(self, blocks: NDArray[np.float32]) -> None:
        """Count the numbers of blocks, one a row."""
        if not blocks.size:
            return
        low, high = blocks.min(axis=1), blocks.max(axis=1)
        if not (np.isfinite(low) & np.isfinite(high)).all():
            for block in blocks:
                finite = block[np.isfinite(block)]
                self.not_finite += len(block) - len(finite)
                self._add(finite.reshape(1, -1))
            return
        exact = blocks.astype(np.float64)
        means = exact.mean(axis=1)
        exact -= means[:, None]
        squares = np.einsum("ij,ij->i", exact, exact)
        moments = zip(*(m.tolist() for m in (means, squares, low, high)), strict=True)
        for of_block in moments:
            self._merge(blocks.shape[1], *of_block)
        self.bins += np.bincount(self._bin(blocks.reshape(-1)), minlength=len(self.bins))

    def _merge(self, count: int, mean: float, squares: float, low: float, high: float) -> None:
        """Take moments in (Chan et al., 1983)."""
        if not count:
            return
        total, gap = self.count + count, mean - self.mean
        self._squares += squares + gap * gap * self.count * count / total
        self.mean += gap * count / total
        self.count = total
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _bin(self, values: NDArray[np.float32]) -> NDArray[np.int32]:
        if self.kind == "probability":
            values = np.clip(values, 0, 1)
            near = np.minimum(values, 1 - values).view(np.int32) >> _SHIFT
            return np.where(values < 0.5, near, 2 * _HALF - near)
        with np.errstate(over="ignore"):  # infinite has a bin too
            scaled = (values - np.float32(self.shift)) * np.float32(1 / self.scale) + np.float32(0)
        bits = scaled.view(np.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF  # of negative numbers, so that it rises
        bits >>= _SHIFT
        bits += _INF + 1
        return bits

    def _edge(self, at: int) -> float:
        """The number where a bin begins."""
        if self.kind == "probability":
            return _float(at) if at <= _HALF else 1 - _float(2 * _HALF - at + 1)
        at -= _INF + 1
        return math.copysign(_float(abs(at)), at)


def psi(reference: NDArray[Any], found: NDArray[Any]) -> float:
    """Population stability index of groups: the sum of (q - p) ln(q / p).

    Shares below 1e-4 count as 1e-4, so that a group that was empty does not make it infinite.

    Args:
        reference: weight of each group that is expected.
        found: weight of each group that came.

    Example:
        >>> round(psi(np.array([50, 50]), np.array([80, 20])), 4)  # 0.3 ln 1.6 - 0.3 ln 0.4
        0.4159
    """
    p, q = (np.maximum(w / w.sum(), _LEAST_SHARE) for w in (reference, found))
    return float(((q - p) * np.log(q / p)).sum())


def psi_by_chance(groups: int, *counts: int) -> float:
    """The PSI that samples of one distribution hardly ever have, of so many rows each.

    About, it is (1/n + 1/m) times a chi-squared statistic of d = groups - 1 degrees of freedom;
    this is its mean, d, and six standard deviations, the square root of 2 d, more.

    Example:
        >>> psi_by_chance(9, 100, 100)  # (8 + 6 * 4) / 50
        0.64
    """
    degrees = max(groups - 1, 0)
    return (degrees + 6 * math.sqrt(2 * degrees)) * sum(1 / count for count in counts)


def _tenths(bins: Ints) -> Ints:
    """The group of each bin: the tenth that the middle of its share lies in."""
    ends = bins.cumsum()
    middle = (ends - bins / 2) / ends[-1]
    tenths: Ints = (middle * GROUPS).astype(np.int64)
    return tenths.clip(max=GROUPS - 1)


def _float(at: int) -> float:
    return float(np.int32(min(at, _INF - 1) << _SHIFT).view(np.float32))
