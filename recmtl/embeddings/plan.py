"""Which device holds which table: planned on the memory there is, agreed on by every rank."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
from torch import nn

from recmtl import _torchrec
from recmtl._checks import suggest
from recmtl.embeddings.tables import Table
from recmtl.errors import RecMTLError, SpecError

__all__ = [
    "Sharding",
    "agree",
    "check_sharding",
    "machine_memory_bytes",
    "plan_in_words",
    "plan_tables",
]

Sharding = Literal["table_wise", "row_wise", "table_row_wise"]

_USABLE = 0.8
"""Share of the memory that tables may fill."""


LIMIT_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container's limit stands, in both versions of control groups."""


def machine_memory_bytes() -> int:
    """Main memory that this process may use: the machine's, or its container's where that is less.

    Example:
        >>> machine_memory_bytes() > 2**28
        True
    """
    total = int(psutil.virtual_memory().total)
    for path in LIMIT_FILES:
        limit = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def check_sharding(sharding: Mapping[str, Sharding], tables: Sequence[Table]) -> None:
    """Refuse constraints on tables that the spec does not have."""
    names = [table.name for table in tables]
    problems = [
        f"train.sharding: there is no table `{name}`, only {', '.join(f'`{n}`' for n in names)}."
        f"{suggest(name, names)}"
        for name in sharding
        if name not in names
    ]
    if problems:
        raise SpecError.all_of(problems)


def plan_tables(
    net: nn.Module,
    sharders: Sequence[Any],
    tables: Mapping[str, Table],
    sharding: Mapping[str, Sharding],
    device: torch.device,
    *,
    batch_size: int,
    local_world_size: int | None = None,
) -> Any:
    """The sharding plan of `net`, equal on every rank. Collective.

    Only fused kernels and the shardings that keep the update in backward are ever allowed:
    `data_parallel` would leave it without a word.

    Args:
        net: a module that holds the collection, on the meta device.
        sharders: TorchRec sharders for it.
        tables: name inside the collection -> table.
        sharding: table -> the sharding that the user asks for.
        device: where this rank's part will live.
        batch_size: rows of one rank's batch.
        local_world_size: ranks on this machine (default: `LOCAL_WORLD_SIZE`, else all of them).

    Raises:
        SpecError: the tables fit the memory of no plan; or a constraint names an unknown table, or
            one with too few rows.
    """
    check_sharding(sharding, list(tables.values()))
    world_size = dist.get_world_size()
    local = local_world_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    parts = {"table_wise": 1, "row_wise": world_size, "table_row_wise": local}
    problems = [
        f"train.sharding: table `{table.name}` has {table.num_embeddings:,} rows, too few for "
        f"`{kind}` over {parts[kind]} processes: some would hold none. Leave it out, or write "
        "`table_wise`."
        for table in tables.values()
        if (kind := sharding.get(table.name)) and not _all_hold_rows(table, parts[kind])
    ]
    if problems:
        raise SpecError.all_of(problems)
    free: list[str] = ["table_wise"]
    free += ["row_wise"] if world_size > 1 else []
    free += ["table_row_wise"] if world_size > local else []
    constraints = {
        inner: _torchrec.ParameterConstraints(
            sharding_types=[sharding[table.name]]
            if table.name in sharding
            else [kind for kind in free if _all_hold_rows(table, parts[kind])],
            compute_kernels=["fused"],
        )
        for inner, table in tables.items()
    }
    on_device = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    main, on_device = _least(machine_memory_bytes() // local, on_device)
    ddr_cap = int(main * _USABLE)
    hbm_cap = int(on_device * _USABLE) if device.type == "cuda" else None
    topology = _torchrec.Topology(
        world_size=world_size,
        local_world_size=local,
        compute_device=device.type,
        hbm_cap=hbm_cap,
        ddr_cap=ddr_cap,
    )
    planner = _torchrec.EmbeddingShardingPlanner(
        topology=topology,
        constraints=constraints,
        batch_size=batch_size,
        storage_reservation=_torchrec.FixedPercentageStorageReservation(
            percentage=0.0
        ),  # `_USABLE` reserves
        debug=False,
    )
    plan, problem = None, None
    try:
        plan = planner.plan(net, list(sharders))
    except _torchrec.PlannerError as error:
        problem = SpecError(_no_plan(tables, error, hbm_cap or ddr_cap, device, world_size))
    agree(problem, str(plan), what="sharding plans")
    return plan


def agree(problem: RecMTLError | None, value: str, *, what: str) -> None:
    """Fail on every rank if one has a problem, or if values differ between ranks. Collective.

    TorchRec's own `collective_plan` fails on rank 0 alone and leaves the others waiting for it.
    """
    world_size = dist.get_world_size()
    if world_size > 1:
        answers: list[Any] = [None] * world_size
        dist.all_gather_object(answers, (problem, value))
        problem = problem or next((p for p, _ in answers if p is not None), None)
        if problem is None and len({v for _, v in answers}) > 1:
            problem = SpecError(
                f"The {what} differ between ranks: start every rank with the same spec and data."
            )
    if problem is not None:
        raise problem


def plan_in_words(plan: Any, tables: Mapping[str, Table], *, world_size: int = 1) -> str:
    """The plan as a text table: a line for each table, largest first, and one for each rank.

    Args:
        plan: TorchRec's `ShardingPlan`.
        tables: name inside the collection -> table.
        world_size: number of ranks; one alone holds everything, and gets no line.
    """
    rows = [("table", "rows", "dim", "MB", "sharding", "kernel", "devices")]
    found = {name: part for module in plan.plan.values() for name, part in module.items()}
    for inner, table in sorted(
        tables.items(), key=lambda item: -item[1].num_embeddings * item[1].embedding_dim
    ):
        part = found[inner]
        placements = dict.fromkeys(str(shard.placement) for shard in part.sharding_spec.shards)
        megabytes = 4 * table.num_embeddings * table.embedding_dim / 1e6
        size = (f"{table.num_embeddings:,}", str(table.embedding_dim), f"{megabytes:,.1f}")
        rows.append(
            (table.name, *size, part.sharding_type, part.compute_kernel, ", ".join(placements))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = {1, 2, 3}
    lines = [
        "  ".join(
            cell.rjust(w) if c in right else cell.ljust(w)
            for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    if world_size > 1:
        lines += ["", *(_held(rank, tables, found) for rank in range(world_size))]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _all_hold_rows(table: Table, parts: int) -> bool:
    """Whether each part of a table has a row: FBGEMM's kernels read astray in a table of none."""
    return (parts - 1) * -(-table.num_embeddings // parts) < table.num_embeddings


def _held(rank: int, tables: Mapping[str, Table], found: Mapping[str, Any]) -> str:
    """What a rank holds, in words."""
    rows_of = {
        tables[inner].name: sum(
            shard.shard_sizes[0]
            for shard in part.sharding_spec.shards
            if shard.placement.rank() == rank
        )
        for inner, part in found.items()
    }
    held = [f"{rows:,} rows of {name}" for name, rows in rows_of.items() if rows]
    return f"rank {rank} holds {', '.join(held) or 'no rows'}"


def _least(*sizes: int) -> tuple[int, ...]:
    """The smallest of each size over all ranks, so that all of them plan alike. Collective."""
    everyone = [sizes] * dist.get_world_size()
    if len(everyone) > 1:
        dist.all_gather_object(everyone, sizes)
    return tuple(min(column) for column in zip(*everyone, strict=True))


def _no_plan(
    tables: Mapping[str, Table], error: Exception, cap: int, device: torch.device, world_size: int
) -> str:
    largest = max(tables.values(), key=lambda table: table.num_embeddings * table.embedding_dim)
    total = sum(4 * table.num_embeddings * table.embedding_dim for table in tables.values())
    reason = next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )
    weights, memory = f"{total / 2**30:.1f} GiB", f"{world_size} x {cap / 2**30:.1f} GiB"
    return (
        f"features: the embedding tables ({weights} of weights, the largest is `{largest.name}` "
        f"with {largest.num_embeddings:,} rows of {largest.embedding_dim}) do not fit {memory} of "
        f"{device.type} memory ({reason}) Use fewer rows (`hash`, a larger `min_count`), a smaller "
        "`dim` or more processes."
    )
