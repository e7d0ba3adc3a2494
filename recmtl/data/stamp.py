"""Whether a file is still the one that was looked at."""

from __future__ import annotations

import os
import time

__all__ = ["Stamp", "is_settled", "stamp_of"]

Stamp = tuple[int, int, int]
"""Inode, size and time of a file's last change."""
_SETTLED_NS = 2_000_000_000


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def is_settled(status: os.stat_result) -> bool:
    """Whether a further change would bear another stamp: not of one that is quite new."""
    return time.time_ns() - status.st_mtime_ns > _SETTLED_NS
