"""Memory and plans. Plans of several ranks are in tests/distributed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from torch.distributed._shard.metadata import ShardMetadata

from recmtl.embeddings.plan import agree, check_sharding, machine_memory_bytes, plan_in_words
from recmtl.embeddings.tables import Table
from recmtl.errors import SpecError


def test_memory_is_that_of_the_machine_or_its_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    total = psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("recmtl.embeddings.plan.LIMIT_FILES", (limit,))
    assert machine_memory_bytes() == total
    limit.write_text("max\n")
    assert machine_memory_bytes() == total
    limit.write_text(f"{2**30}\n")
    assert machine_memory_bytes() == 2**30


@pytest.mark.usefixtures("gloo")
def test_a_problem_of_this_rank_is_raised() -> None:
    agree(None, "plan", what="plans")
    with pytest.raises(SpecError, match="too large"):
        agree(SpecError("too large"), "plan", what="plans")


def test_every_unknown_table_is_named() -> None:
    tables = [Table("user", 3, 4, ("user",)), Table("item", 3, 4, ("item",))]
    check_sharding({"user": "row_wise"}, tables)
    with pytest.raises(SpecError, match=r"`usr`, only `user`, `item`.*\n.*`ad`"):
        check_sharding({"usr": "row_wise", "ad": "row_wise"}, tables)


def test_words_are_sorted_by_size_and_aligned_and_name_every_rank() -> None:
    def part(sharding: str, **rows_of: int) -> SimpleNamespace:
        shards = [
            ShardMetadata([0, 0], [rows, 4], f"rank:{rank[1:]}/cpu")
            for rank, rows in rows_of.items()
        ]
        spec = SimpleNamespace(shards=shards)
        return SimpleNamespace(sharding_type=sharding, compute_kernel="fused", sharding_spec=spec)

    found = {"t0": part("table_wise", r1=10), "t1": part("row_wise", r0=2_000_000, r1=0)}
    plan = SimpleNamespace(plan={"lookup.collection": found})
    tables = {"t0": Table("ad", 10, 4, ()), "t1": Table("item_id", 2_000_000, 16, ())}
    table = (
        "table         rows  dim     MB  sharding    kernel  devices\n"
        "item_id  2,000,000   16  128.0  row_wise    fused   rank:0/cpu, rank:1/cpu\n"
        "ad              10    4    0.0  table_wise  fused   rank:1/cpu\n"
    )
    assert plan_in_words(plan, tables) == table
    assert plan_in_words(plan, tables, world_size=3) == table + (
        "\nrank 0 holds 2,000,000 rows of item_id\nrank 1 holds 10 rows of ad\n"
        "rank 2 holds no rows\n"
    )
