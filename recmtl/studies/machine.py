"""What this machine is, and how many runs it can train at a time."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from recmtl.config import RunConfig
from recmtl.doctor.machine import machine_memory
from recmtl.run import versions
from recmtl.spec import SequenceFeature

__all__ = ["cores", "jobs_for", "made_on"]

_PROCESS_BYTES = 3 * 2**29
"""Of a training process besides tables and `data.memory`: 1.5 GiB."""


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def jobs_for(config: RunConfig, num_rows: int) -> int:
    """How many runs fit into the memory that is available, at most one a core; one on a GPU.

    A vocabulary is taken to have as many rows as the log, the most that it can have.
    """
    if torch.cuda.is_available() or (config.train.devices or 1) > 1:
        return 1
    needed = _table_bytes(config, num_rows) + config.data.memory_bytes + _PROCESS_BYTES
    available = min(psutil.virtual_memory().available, machine_memory())
    return max(1, min(cores(), available // needed))


def _table_bytes(config: RunConfig, num_rows: int) -> int:
    total = 0
    for table in config.tables:
        owner = config.table_owner(table)
        rows = num_rows
        if isinstance(owner, SequenceFeature):
            rows *= owner.max_len
        if owner.hash is not None:
            rows = owner.hash
        elif owner.buckets is not None:
            rows = owner.buckets if isinstance(owner.buckets, int) else len(owner.buckets) + 2
        total += 4 * rows * (config.dim_of(owner) + 1)
    return total


def made_on(**more: str) -> dict[str, Any]:
    """When, where and with what a study was made: `date`, `machine` and `versions`.

    Args:
        more: versions of further packages.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "machine": _machine_text(), "versions": versions() | more}


def _machine_text() -> str:
    """The processor, its cores, memory and GPU in one line."""
    words = [_processor(), f"{cores()} cores", f"{machine_memory() / 2**30:.0f} GiB"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
