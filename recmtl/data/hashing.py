"""Hashes that never change (splitmix64 of integers, xxh3-64 of strings), and random orders."""

from __future__ import annotations

import numpy as np
import polars as pl
import polars_hash
from numpy.typing import NDArray

__all__ = ["combine", "permutation", "permuted", "splitmix64", "xxh3_64"]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_BLOCK = 1 << 14  # three arrays of this many stay in the cache
_BUCKET_BITS = 14  # of the number of hashes in a bucket, about, for the same reason


def splitmix64(values: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit integers by a bijection: the first output of SplitMix64 from each state.

    Example:
        >>> [hex(v) for v in splitmix64(np.array([0, 1]))]
        ['0xe220a8397b1dcdaf', '0x910a2dec89025cc1']
    """
    out: NDArray[np.uint64] = values.astype(np.uint64)  # two's complement, so -1 becomes 2^64 - 1
    scratch = np.empty(min(_BLOCK, len(out)), np.uint64)
    for start in range(0, len(out), _BLOCK):
        z = out[start : start + _BLOCK]
        t = scratch[: len(z)]
        z += _GAMMA
        z ^= np.right_shift(z, np.uint64(30), out=t)
        z *= _MIX_1
        z ^= np.right_shift(z, np.uint64(27), out=t)
        z *= _MIX_2
        z ^= np.right_shift(z, np.uint64(31), out=t)
    return out


def xxh3_64(strings: pl.Series) -> NDArray[np.uint64]:
    """Hash strings (their UTF-8 bytes, seed 0); a null gives 0.

    Example:
        >>> [hex(v) for v in xxh3_64(pl.Series(["", "abc"]))]
        ['0x2d06800538d394c2', '0x78af5f94892f3950']
    """
    column = polars_hash.col("strings").nchash.xxh3_64().fill_null(0)
    return strings.alias("strings").to_frame().select(column).to_series().to_numpy()


def combine(*numbers: int) -> int:
    """One 64-bit integer from several integers, order included: the key of a random order.

    Example:
        >>> combine(1, 2) == combine(1, 2), combine(1, 2) == combine(2, 1)
        (True, False)
    """
    state = 0
    for number in numbers:
        mixed = state ^ (number & 0xFFFFFFFFFFFFFFFF)
        state = int(splitmix64(np.array([mixed], np.uint64))[0])
    return state


def permutation(size: int, *key: int) -> NDArray[np.int64]:
    """A random order of 0, ..., size - 1 that depends on `key` alone, on every machine and version.

    Numbers are sorted by their hash; splitmix64 is a bijection, so there are no ties.

    Example:
        >>> permutation(5, 0, 1), permutation(5, 0, 2)
        (array([0, 4, 3, 2, 1]), array([1, 2, 3, 0, 4]))
    """
    counters = np.arange(size, dtype=np.uint64) * _GAMMA + np.uint64(combine(*key))
    return _order(splitmix64(counters))


def _order(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The order that sorts hashes; of a million in 40 % of the time of `argsort`.

    They are dealt by their first bits to buckets that stay in the cache, and sorted there.
    """
    bits = min(max(int(len(hashes) - 1).bit_length() - _BUCKET_BITS, 0), 16)
    if not bits:
        return _order_of_few(hashes, 0)
    buckets = (hashes >> np.uint64(64 - bits)).astype(np.uint16)
    order = np.argsort(buckets, kind="stable")  # of 16 bits: a radix sort
    dealt = hashes[order]
    start = 0
    for stop in np.cumsum(np.bincount(buckets)).tolist():
        inside = _order_of_few(dealt[start:stop], bits)
        order[start:stop] = order[start:stop][inside]
        start = stop
    return order


def _order_of_few(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """The same, of hashes whose first bits are equal, by the 32 bits that follow if they differ."""
    words = ((hashes << np.uint64(bits)) >> np.uint64(32)).astype(np.uint32)
    order = np.argsort(words.astype(np.uint16), kind="stable")
    order = order[np.argsort((words >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    words = words[order]
    return np.argsort(hashes) if (words[1:] == words[:-1]).any() else order


def permuted(places: NDArray[np.int64], size: int, *key: int) -> NDArray[np.int64]:
    """The elements at some places of a random order of 0, ..., size - 1, which is not made whole.

    A Feistel network of four rounds over the next power of four, walked until it lands below
    `size`. It is another order than that of `permutation`.

    Example:
        >>> permuted(np.arange(5), 5, 0, 1), permuted(np.array([4, 0]), 5, 0, 1)
        (array([4, 3, 2, 0, 1]), array([1, 4]))
    """
    half = np.uint64(max(int(size - 1).bit_length() + 1, 2) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    rounds = [np.uint64(combine(*key, number)) for number in range(4)]
    found = places.astype(np.uint64)
    beyond = np.arange(len(found))
    while len(beyond):
        value = found[beyond]
        left, right = value >> half, value & mask
        for number in rounds:
            left, right = right, left ^ (splitmix64(right ^ number) & mask)
        found[beyond] = (left << half) | right
        beyond = beyond[found[beyond] >= size]
    return found.view(np.int64)
