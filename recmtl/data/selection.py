"""The k-th largest of many numbers, read several times in pieces: bounded memory, exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["kth_largest"]

_BINS = 1 << 16
_SIGN = np.uint64(1 << 63)


def kth_largest(pieces: Callable[[], Iterable[NDArray[Any]]], k: int) -> Any:
    """The k-th largest number (from 1) of all pieces, which hold k at least and no NaN.

    Each pass counts how many numbers lie in each of 65,536 equal intervals, and the next one looks
    into the interval that holds the number: five passes at most.

    Args:
        pieces: gives all pieces anew; integers or floats of one type.
        k: the rank.

    Example:
        >>> int(kth_largest(lambda: [np.array([5, -1]), np.array([7, 5])], 3))
        5
    """
    bounds = [(keys.min(), keys.max()) for keys in map(_keys, pieces()) if len(keys)]
    low, high = min(int(b[0]) for b in bounds), max(int(b[1]) for b in bounds)
    while low < high:
        width = -(-(high - low + 1) // _BINS)
        counts = np.zeros(_BINS, np.int64)
        for keys in map(_keys, pieces()):
            inside = keys[(keys >= np.uint64(low)) & (keys <= np.uint64(high))]
            bins = ((inside - np.uint64(low)) // np.uint64(width)).view(np.int64)
            counts += np.bincount(bins, minlength=_BINS)
        above = np.cumsum(counts[::-1])
        place = int(np.searchsorted(above, k))  # from the highest interval
        k -= int(above[place - 1]) if place else 0
        low += (_BINS - 1 - place) * width
        high = min(low + width - 1, high)
    found = next(iter(pieces())).dtype
    return _number(low, found)


def _keys(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """Numbers as unsigned integers of the same order."""
    if numbers.dtype.kind == "f":
        bits = (numbers.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: -0 equals 0
        negative = bits >= _SIGN
        return np.where(negative, ~bits, bits | _SIGN)
    if numbers.dtype.kind == "i":
        return numbers.astype(np.int64).view(np.uint64) ^ _SIGN
    return numbers.astype(np.uint64)


def _number(key: int, dtype: np.dtype[Any]) -> Any:
    """The number of a key."""
    bits = np.array([key], np.uint64)
    if dtype.kind == "f":
        bits = bits ^ _SIGN if key >= int(_SIGN) else ~bits
        return bits.view(np.float64).astype(dtype)[0]
    if dtype.kind == "i":
        return (bits ^ _SIGN).view(np.int64).astype(dtype)[0]
    return bits.astype(dtype)[0]
