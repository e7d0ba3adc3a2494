"""What the C library (glibc) does with memory that was freed; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
from functools import lru_cache

__all__ = ["keep_little", "trim"]

_M_MMAP_THRESHOLD, _MOST_KEPT = -3, 1 << 25  # of glibc's malloc.h


def trim() -> None:
    """Let it give back to the system what it can."""
    if (malloc_trim := getattr(_c_library(), "malloc_trim", None)) is not None:
        malloc_trim(0)


def keep_little(memory_bytes: int) -> None:
    """Let it give large blocks back as soon as they are freed.

    It learns from the blocks it sees to keep up to 32 MiB for later, in pieces between what is in
    use: training with a budget of 64 MiB grew by 136 % of it. From now on blocks of 1/64 of the
    budget and more are not kept, which costs the time to get them anew.
    """
    if (mallopt := getattr(_c_library(), "mallopt", None)) is not None:
        mallopt(_M_MMAP_THRESHOLD, min(max(memory_bytes // 64, 1 << 18), _MOST_KEPT))


@lru_cache(maxsize=1)
def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # no such library by this name: not on Linux
        return None
