"""Layout: which feature looks up which table."""

from __future__ import annotations

from recmtl.embeddings import Table
from tests.embeddings.world import LOOKED_UP, world_layout


def test_tables_and_who_shares_them() -> None:
    found = {table.name: table for table in world_layout().tables}
    assert list(found) == ["user", "item.id", "type", "tags", "topics", "gaps"]
    assert found["item.id"] == Table("item.id", 17, 8, ("history", "item.id"))
    assert found["topics"].features == ("topics", "words")


def test_features_keep_the_order_of_the_spec() -> None:
    tables = world_layout()
    assert tables.features == tuple(LOOKED_UP)
    assert tables.pooled == ("user", "item.id", "type", "tags", "topics", "words")
    assert tables.dims["history"] == tables.dims["item.id"] == 8


def test_bags_and_sequences_know_how_they_pool() -> None:
    tables = world_layout()
    described = [(bag.name, bag.pooling, bag.weighted) for bag in tables.bags]
    assert described == [("tags", "mean", False), ("topics", "sum", True), ("words", "mean", True)]
    assert [(s.name, s.table, s.max_len) for s in tables.sequences] == [
        ("history", "item.id", 4),
        ("gaps", "gaps", 4),
    ]
    assert tables.is_weighted


def test_memory_by_hand() -> None:
    rows, dim = 17, 8
    for optimizer, state in (("rowwise_adagrad", 1), ("adagrad", dim), ("sgd", 0), ("adam", 16)):
        assert world_layout().table_bytes(optimizer)["item.id"] == 4 * rows * (dim + state)
