"""Encoders that grow: old rows stay where they are, new ones follow, counts are added up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data import Encoders
from recmtl.data.vocab import VocabCounter, Vocabulary
from recmtl.errors import CheckpointError, DataError, SpecError
from tests.data import plain_encoding as plain
from tests.data.strategies import make_spec
from tests.data.worlds import log_of

CTR = [{"name": "ctr", "label": "click"}]
IDS = st.integers(0, 12) | st.integers(-(2**63), 2**63 - 1)
DAYS = st.lists(st.lists(IDS, min_size=1, max_size=15), min_size=1, max_size=4)


def grown_by_hand(days: list[list[Any]], min_count: int) -> tuple[dict[Any, int], Counter[Any]]:
    """Ids to rows, and how often each was seen: day by day, in plain loops."""
    counts: Counter[Any] = Counter()
    rows: dict[Any, int] = {}
    for day in days:
        counts.update(day)
        fresh = [v for v in counts if counts[v] >= min_count and v not in rows]
        for v in sorted(fresh, key=lambda v: (-counts[v], v)):
            rows[v] = len(rows) + 1
    return rows, counts


@given(DAYS, st.integers(1, 3))
def test_a_vocabulary_grows_as_plain_loops_do(days: list[list[int]], min_count: int) -> None:
    vocab: Vocabulary | None = None
    rare = pl.DataFrame(schema={"id": pl.Int64, "count": pl.Int64})
    for day in days:
        counter = VocabCounter(min_count)
        counter.add_counts(rare)
        counter.add(pl.Series(day, dtype=pl.Int64))
        vocab = counter.finish(vocab)
        rare = counter.rare
    assert vocab is not None
    rows, counts = grown_by_hand(days, min_count)
    assert dict(zip(vocab.ids.to_list(), range(1, vocab.rows), strict=True)) == rows
    assert vocab.counts.to_list() == [counts[v] for v in vocab.ids]
    left_out = {v: n for v, n in counts.items() if v not in rows}
    assert dict(rare.iter_rows()) == left_out
    assert rare["id"].to_list() == sorted(left_out)


def test_many_ids_grow_as_few_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that are kept in shares."""
    rng = np.random.default_rng(0)
    days = [rng.zipf(1.3, 4_000) % 10**12 for _ in range(3)]
    monkeypatch.setattr("recmtl.data.vocab._LARGE", 100)
    vocab, rare = None, pl.DataFrame(schema={"id": pl.Int64, "count": pl.Int64})
    for day in days:
        counter = VocabCounter(2, pending_ids=50)
        counter.add_counts(rare)
        for piece in np.split(day, 8):
            counter.add(pl.Series(piece))
        vocab = counter.finish(vocab)
        rare = counter.rare
    assert vocab is not None
    rows, counts = grown_by_hand([day.tolist() for day in days], 2)
    assert dict(zip(vocab.ids.to_list(), range(1, vocab.rows), strict=True)) == rows
    assert vocab.counts.to_list() == [counts[v] for v in vocab.ids]


FEATURES = [
    {"name": "user", "type": "sparse", "vocab": {"min_count": 2}, "dim": 4},
    {"name": "item", "type": "sparse", "hash": 7, "dim": 4},
    {"name": "age", "type": "sparse", "buckets": 3, "dim": 4},
    {"name": "band", "type": "sparse", "buckets": [1.0, 2.0], "dim": 4},
    {"name": "tags", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "seen", "type": "sequence", "vocab": {}, "dim": 4, "max_len": 3},
    {"name": "price", "type": "dense"},
    {"name": "look", "type": "vector", "dim": 2, "normalize": "standard"},
]
TASKS = [*CTR, {"name": "dwell", "label": "seconds", "kind": "regression", "given": "click"}]


def day(seed: int, rows: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": rng.integers(10 * seed, 10 * seed + 30, rows),
            "item": rng.integers(0, 100, rows),
            "age": rng.normal(seed, 1.0, rows),
            "band": rng.uniform(0, 3, rows),
            "tags": [rng.choice(["a", "b", f"t{seed}"], n).tolist() for n in [1, 2, 3] * 20],
            "seen": [rng.integers(0, 5 + 5 * seed, n).tolist() for n in [0, 2, 5] * 20],
            "price": rng.normal(10.0 * seed, 1.0, rows),
            "look": rng.normal(seed, 2.0, (rows, 2)),
            "click": np.arange(rows) % 2,
            "seconds": rng.exponential(1.0 + seed, rows),
        },
        schema_overrides={"tags": pl.List(pl.String), "seen": pl.List(pl.Int64)},
    )


def fitted(frame: pl.DataFrame, before: Encoders | None = None, **changes: Any) -> Encoders:
    features = [{**f, **changes.get(str(f["name"]), {})} for f in FEATURES]
    return Encoders.fit(make_spec(features, TASKS), train=log_of(frame), before=before)


@pytest.fixture(scope="module")
def first() -> Encoders:
    return fitted(day(1))


@pytest.fixture(scope="module")
def second(first: Encoders) -> Encoders:
    return fitted(day(2), first)


def test_rows_of_the_first_day_are_encoded_as_before(first: Encoders, second: Encoders) -> None:
    """All ids that had a row, all borders and normalisations: only unknown ids may get rows."""
    old, new = (encoders.encode(day(1), labels=True) for encoders in (first, second))
    stays = old.ids_FB > 0
    assert (old.ids_FB == new.ids_FB)[stays].all()
    assert (old.ids_FB == 0).any()
    assert old.dense_DB.equal(new.dense_DB)
    assert old.bags["tags"].values_N.equal(new.bags["tags"].values_N)
    assert old.sequences["seen"].values_N.equal(new.sequences["seen"].values_N)
    assert second.label_scales == first.label_scales
    assert second.tables["user"] > first.tables["user"]
    assert second.tables["tags"] == first.tables["tags"] + 1
    for table in ("item", "age", "band"):
        assert second.tables[table] == first.tables[table]


def test_what_is_of_the_rows_is_of_the_new_ones(second: Encoders) -> None:
    alone = fitted(day(2))
    assert second.num_rows == 60
    assert second.populations == alone.populations
    assert second.base_rates == alone.base_rates


def test_counts_are_those_of_both_days(second: Encoders) -> None:
    frame = pl.concat([day(1), day(2)])
    encoded = second.encode(frame, labels=False)
    single = dict(zip(second.single, encoded.ids_FB, strict=True))
    for table in ("item", "band"):
        expected = single[table].bincount(minlength=second.tables[table])
        assert second.counts(table).tolist() == expected.tolist()
    # Quantiles were not counted on the first day, whose 60 rows fill three buckets evenly.
    today = dict(zip(second.single, second.encode(day(2), labels=False).ids_FB, strict=True))
    ages = today["age"].bincount(minlength=4) + torch.tensor([20, 20, 20, 20])
    assert second.counts("age").tolist() == ages.tolist()
    users = Counter(frame["user"].to_list())
    ids = dict(zip(frame["user"].to_list(), single["user"].tolist(), strict=True))
    for user, row in ids.items():
        assert (row > 0) == (users[user] >= 2)
        assert row == 0 or second.counts("user")[row] == users[user]
    assert second.counts("user").sum() == 120
    items = encoded.sequences["seen"].values_N.bincount(minlength=second.tables["seen"])
    assert second.counts("seen").tolist() == items.tolist()
    tags = Counter(tag for row in frame["tags"].to_list() for tag in set(row))
    vocab = plain.vocabulary(day(1)["tags"].to_list(), 1)
    assert second.counts("tags")[vocab["a"]] == tags["a"]


def test_they_grow_on_from_disk(first: Encoders, second: Encoders, tmp_path: Path) -> None:
    for name, encoders in (("first", first), ("second", second)):
        encoders.save(tmp_path / name)
    loaded = Encoders.load(tmp_path / "first")
    fitted(day(2), loaded).save(tmp_path / "again")
    names = {file.name for file in (tmp_path / "second").iterdir()}
    assert {"rare-0000.parquet", "files.json"} <= names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    third, other = (fitted(day(3), Encoders.load(tmp_path / n)) for n in ("second", "again"))
    assert third.encode(day(1), labels=False).ids_FB.equal(
        other.encode(day(1), labels=False).ids_FB
    )
    assert third.counts("user").sum() == 180


def test_encoders_of_a_rare_file_that_is_none_are_refused(first: Encoders, tmp_path: Path) -> None:
    first.save(tmp_path / "e")
    file = tmp_path / "e/rare-0000.parquet"
    pl.DataFrame({"id": [1.5]}).write_parquet(file)
    with pytest.raises(CheckpointError, match="rare-0000"):
        Encoders.load(tmp_path / "e")


def test_a_day_without_a_single_row_of_a_task_is_none_of_its_business(first: Encoders) -> None:
    frame = day(2).with_columns(click=pl.lit(0))
    with pytest.raises(DataError, match="no training row with a weight above 0 observes"):
        fitted(frame)
    grown = fitted(frame, first)
    assert grown.populations["dwell"] == (0, 0)
    assert grown.label_scales == first.label_scales
    assert grown.base_rates["ctr"] == 0.5 / 60


def test_columns_of_other_types_are_refused(first: Encoders) -> None:
    frame = day(2).with_columns(pl.col("user").cast(pl.String), tags=pl.lit("a"))
    with pytest.raises(DataError) as error:
        fitted(frame, first)
    said = str(error.value)
    assert "column `user` is String, but it was fitted on integers. Cast it to Int64." in said
    assert "column `tags` is String, but it was fitted on lists." in said
    assert said.count("train.parquet") == 2


def test_other_features_are_refused_all_at_once(first: Encoders) -> None:
    with pytest.raises(SpecError) as error:
        fitted(day(2), first, user={"dim": 8}, price={"transform": "signed_log1p"})
    assert str(error.value).splitlines() == [
        "feature `price`: was trained with transform: none, not signed_log1p.",
        "feature `user`: was trained with dim: 4, not 8.",
    ]
    assert fitted(day(2), first, user={"vocab": {"min_count": 1}, "nulls": "error"}).tables
