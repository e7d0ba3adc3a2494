"""What the machine has: versions that fit each other, memory, settings of its threads."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import psutil
import torch

from recmtl._checks import size_text
from recmtl._extras import naming_the_extra
from recmtl._torchrec import check_versions
from recmtl.config import RunConfig
from recmtl.data import Encoders
from recmtl.doctor.findings import Finding, from_error
from recmtl.embeddings import layout
from recmtl.embeddings.optim import require_optimizer
from recmtl.errors import RecMTLError, SpecError
from recmtl.models import input_dims
from recmtl.run import versions

__all__ = [
    "machine_memory",
    "memory_findings",
    "network_findings",
    "optimizer_findings",
    "version_findings",
]

_REFUSED_SHARE, _LARGE_SHARE = 0.9, 0.5
_CGROUPS = ("memory.max", "memory/memory.limit_in_bytes")


def version_findings() -> list[Finding]:
    """Versions of what is installed, whether they fit, and how OpenMP threads wait."""
    findings = []
    for check in (_require_lightning, check_versions):
        try:
            check()
        except RecMTLError as error:
            findings += from_error(error)
    found = versions()
    text = ", ".join(f"{name} {version}" for name, version in found.items() if name != "platform")
    findings.append(Finding("info", "versions", f"{text}."))
    if not torch.cuda.is_available() and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        what = (
            "OMP_WAIT_POLICY is not PASSIVE: on a CPU that is shared with other processes the "
            "backward of the tables becomes 15 to 150 times slower."
        )
        advice = "Set OMP_WAIT_POLICY=PASSIVE before torch is imported, as `recmtl train` does."
        findings.append(Finding("warning", "environment", what, advice))
    return findings


def _require_lightning() -> None:
    with naming_the_extra("`recmtl train`"):
        importlib.metadata.distribution("lightning")  # to import it would take seconds


def optimizer_findings(config: RunConfig) -> list[Finding]:
    """A table optimizer that this machine has no kernel for."""
    try:
        require_optimizer(config.train.embedding, "cuda" if torch.cuda.is_available() else "cpu")
    except SpecError as error:
        return from_error(error)
    return []


def network_findings(config: RunConfig, encoders: Encoders) -> list[Finding]:
    """A tower, an interaction or a wide part that the spec's features cannot feed."""
    try:
        input_dims(
            config,
            config.network,
            layout(config, encoders.tables, encoders.single, encoders.bags),
        )
    except SpecError as error:
        return from_error(error)
    return []


def memory_findings(config: RunConfig, encoders: Encoders) -> list[Finding]:
    """Whether the tables and the state of their optimizer fit into this machine."""
    tables = layout(config, encoders.tables, encoders.single, encoders.bags)
    sizes = tables.table_bytes(config.train.embedding.optimizer)
    total, machine = sum(sizes.values()), machine_memory()
    largest = max(sizes, key=lambda table: sizes[table], default="")
    what = (
        f"tables and their optimizer state take {size_text(total)}, the machine has "
        f"{size_text(machine)}"
    )
    what += f"; the largest is `{largest}`, {size_text(sizes[largest])}." if largest else "."
    advice = "Lower `dim`, raise `vocab.min_count`, or use `hash`."
    if total > _REFUSED_SHARE * machine:
        return [Finding("error", "memory", what, advice, exit_code=2)]
    if total > _LARGE_SHARE * machine:
        return [Finding("warning", "memory", what, f"Little is left for the rest. {advice}")]
    return [Finding("info", "memory", what)]


def machine_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory in bytes that this process may take: the machine's, or its container's."""
    limits = [psutil.virtual_memory().total]
    for name in _CGROUPS:
        try:
            limits.append(int((cgroup / name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such limit, or the word `max`
            continue
    return min(limits)
