"""Initial weights of a table: a function of (seed, table, row), on any number of processes."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["fill_rows", "initial_rows"]

_INIT_ROWS = 4096
"""Rows that are drawn together; part of what a seed means."""


def initial_rows(seed: int, table: str, block: int, dim: int) -> np.ndarray:
    """Standard normal draws [4096, E] of a block of rows: a function of the arguments alone."""
    key = hashlib.blake2b(f"{seed}/{block}/{table}".encode(), digest_size=16).digest()
    generator = np.random.Generator(
        np.random.SFC64(np.random.SeedSequence(int.from_bytes(key, "little")))
    )
    return generator.standard_normal((_INIT_ROWS, dim), dtype=np.float32)


def fill_rows(part: Tensor, first: int, num_rows: int, table: str, seed: int, scale: float) -> None:
    """Fill `part`, rows `first` and on of a table, with initial weights; row 0 is zero."""
    for block in range(first // _INIT_ROWS, -(-(first + num_rows) // _INIT_ROWS)):
        start, stop = (
            max(block * _INIT_ROWS, first),
            min((block + 1) * _INIT_ROWS, first + num_rows),
        )
        drawn = initial_rows(seed, table, block, part.shape[1])[
            start - block * _INIT_ROWS : stop - block * _INIT_ROWS
        ]
        part[start - first : stop - first].copy_(torch.from_numpy(drawn * np.float32(scale)))
    if first == 0 and num_rows > 0:
        part[0].zero_()
