"""Other readings of features, against plain Python on the raw values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recmtl.analysis.features import FeatureGroup, with_values_of
from recmtl.analysis.variants import Candidate, candidates
from recmtl.batch import Batch
from recmtl.config import RunConfig
from recmtl.data import Encoders
from recmtl.data.hashing import xxh3_64
from recmtl.spec import parse_yaml
from tests.data import plain_encoding as plain

SPEC = """name: served
data: {train: train.parquet}
features:
  - {name: user, type: sparse, hash: 1000, dim: 4}
  - {name: city, type: sparse, hash: 1000, dim: 4}
  - {name: item, type: sparse, vocab: {}, dim: 4}
  - {name: items, type: sequence, table: item, max_len: 3, behaviour: seen}
  - {name: gaps, type: sequence, buckets: [1.5, 4.5], dim: 4, max_len: 3, behaviour: seen}
  - {name: brand, type: sparse, vocab: {}, dim: 4}
  - {name: age, type: sparse, buckets: [25, 35], dim: 4}
  - {name: tags, type: sparse, vocab: {}, dim: 4, weights: w}
  - {name: price, type: dense, transform: log1p}
  - {name: stock, type: dense, normalize: none, fill: 7.0}
  - {name: look, type: vector, dim: 2}
tasks: [{name: ctr, label: click}]
tower: {kind: shared_bottom}
"""
ROWS = pl.DataFrame(
    {
        "user": [5, -1, 2**33 + 5, 16_777_217],
        "city": ["12", " Bonn ", "bonn", None],
        "item": [1, 2, 3, 1],
        "items": [[1, 2, 3, 1, 2], [3, 1], [], None],
        "gaps": [[1, 2, 3, 4, 5], [9, 1], [], None],
        "brand": ["acme", "zeta", "acme", "unknown"],
        "age": [20, 30, 40, None],
        "tags": [["a", "b", "c"], ["a"], None, []],
        "w": [[0.5, 1.0, 2.0], [3.0], None, []],
        "price": [0.0, 1.5, 20.0, None],
        "stock": [1.0, 2.7, None, -3.2],
        "look": [[3.0, 4.0], [1.0, 0.0], None, [0.6, 0.8]],
        "click": [0, 1, 0, 1],
    }
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    folder = tmp_path_factory.mktemp("variants")
    return fitted(folder)


def fitted(folder: Path) -> Encoders:
    ROWS.write_parquet(folder / "train.parquet")
    return Encoders.fit(parse_yaml(RunConfig, SPEC), folder)


def reading(encoders: Encoders, feature: str, words: str) -> Batch:
    """The rows with a feature read so (the first way that begins so), others as they are."""
    candidate = next(
        c
        for c in candidates(encoders)
        if c.group.name == feature and c.variant.words.startswith(words)
    )
    batch = encoders.encode(ROWS, labels=False)
    changed = candidate.variant.make(ROWS, batch)
    return with_values_of(batch, candidate.group, changed, torch.arange(4), encoders)


def ids(encoders: Encoders, batch: Batch, feature: str) -> list[int]:
    return batch.ids_FB[encoders.single.index(feature)].tolist()


def lists(batch: Batch, feature: str) -> list[list[int]]:
    column = {**batch.bags, **batch.sequences}[feature]
    return [part.tolist() for part in column.values_N.split(column.lengths_B.tolist())]


def dense(encoders: Encoders, batch: Batch, feature: str) -> list[list[float]]:
    return batch.dense_DB[encoders.spec.dense_rows[feature]].T.tolist()


def integer_row(value: int) -> int:
    return 1 + plain.splitmix64(value % 2**64) % 1000


def string_row(value: str) -> int:
    return 1 + int(xxh3_64(pl.Series([value]))[0]) % 1000


def test_every_reading_can_be_made_and_changes_its_feature_alone(encoders: Encoders) -> None:
    batch = encoders.encode(ROWS, labels=False)
    found = candidates(encoders)
    assert {name for c in found for name in c.group.members} == {
        feature.name for feature in encoders.spec.features
    }
    assert {c.variant.cause for c in found} == {
        *("type", "vocabulary", "default", "transform", "list")
    }
    texts = [(c.group.name, c.variant.words) for c in found]
    assert len(set(texts)) == len(texts)
    every = torch.arange(4)
    for candidate in found:
        if candidate == negative_price(found):
            continue
        changed = candidate.variant.make(ROWS, batch)
        together = with_values_of(batch, candidate.group, changed, every, encoders)
        for f, name in enumerate(encoders.single):
            assert int(changed.ids_FB[f].max()) < encoders.tables[name]
        for name, column in {**changed.bags, **changed.sequences}.items():
            assert int(column.lengths_B.sum()) == len(column.values_N), (candidate, name)
        others = FeatureGroup("", tuple(candidate.group.members))
        back = with_values_of(together, others, batch, every, encoders)
        assert torch.equal(back.ids_FB, batch.ids_FB)
        assert torch.equal(back.dense_DB, batch.dense_DB)
        for name, column in {**batch.bags, **batch.sequences}.items():
            assert torch.equal({**back.bags, **back.sequences}[name].values_N, column.values_N)


def negative_price(found: list[Candidate]) -> Candidate:
    """A price of -1 has no logarithm: the one reading that the spec forbids."""
    (one,) = (c for c in found if (c.group.name, c.variant.words) == ("price", "was -1"))
    return one


def test_ids_in_another_type(encoders: Encoders) -> None:
    users, cities = ROWS["user"].to_list(), ROWS["city"].to_list()
    plain_ids = ids(encoders, encoders.encode(ROWS, labels=False), "user")
    assert plain_ids == [integer_row(user) for user in users]
    strings = ids(encoders, reading(encoders, "user", "was read as strings"), "user")
    assert strings == [string_row(str(user)) for user in users]
    texts = reading(encoders, "user", "was read as strings of floats")
    assert ids(encoders, texts, "user")[:2] == [string_row("5.0"), string_row("-1.0")]
    single = ids(encoders, reading(encoders, "user", "was read as float32"), "user")
    assert single == [integer_row(int(np.float32(user))) for user in users]
    assert single[3] != plain_ids[3]
    narrow = ids(encoders, reading(encoders, "user", "was read as int32"), "user")
    assert narrow == [plain_ids[0], plain_ids[1], plain_ids[0], plain_ids[3]]
    integers = ids(encoders, reading(encoders, "city", "was read as integers"), "city")
    assert integers == [integer_row(12), 0, 0, 0]
    lower = ids(encoders, reading(encoders, "city", "was read in lower case"), "city")
    assert lower == [string_row("12"), string_row(" bonn "), string_row("bonn"), 0]
    bare = ids(encoders, reading(encoders, "city", "was read without spaces"), "city")
    assert bare == [string_row("12"), string_row("Bonn"), string_row(cities[2]), 0]
    floats = ids(encoders, reading(encoders, "city", "was read as strings of floats"), "city")
    assert floats[:2] == [string_row("12.0"), string_row(" Bonn ")]


def test_texts_are_lowered_before_they_are_numbers(encoders: Encoders) -> None:
    """Where both fall upon row 0, the likelier one is named."""
    words = [c.variant.words for c in candidates(encoders) if c.group.name == "city"]
    assert words.index("was read in lower case") < words.index("was read as integers")


def test_unknown_values_and_defaults(encoders: Encoders) -> None:
    known = encoders.encode(ROWS, labels=False)
    assert ids(encoders, reading(encoders, "brand", "was out-of-vocabulary"), "brand") == [0] * 4
    assert lists(reading(encoders, "items", "was out-of-vocabulary"), "items") == [
        [0, 0, 0],
        [0, 0],
        [],
        [],
    ]
    assert (
        ids(encoders, reading(encoders, "brand", "was 'unknown'"), "brand")
        == [ids(encoders, known, "brand")[3]] * 4
    )
    assert ids(encoders, reading(encoders, "age", "was null"), "age") == [0] * 4
    assert ids(encoders, reading(encoders, "age", "was 0"), "age") == [1] * 4
    assert (
        dense(encoders, reading(encoders, "stock", "was null (filled with 7)"), "stock")
        == [[7.0]] * 4
    )
    ones = reading(encoders, "tags", "had weights of 1").bags["tags"].weights_N
    assert ones is not None
    assert ones.tolist() == [1.0] * 4
    assert dense(encoders, reading(encoders, "look", "was zeros"), "look") == [[0.0, 0.0]] * 4


def test_rows_that_are_off_by_one(encoders: Encoders) -> None:
    before = reading(encoders, "user", "had the table row before")
    assert ids(encoders, before, "user") == [integer_row(int(v)) - 1 for v in ROWS["user"]]
    after = reading(encoders, "city", "had the table row after")
    own = [string_row("12"), string_row(" Bonn "), string_row("bonn")]
    assert ids(encoders, after, "city") == [*(min(row + 1, 1000) for row in own), 0]
    rows = ids(encoders, encoders.encode(ROWS, labels=False), "item")
    assert sorted({*rows}) == [1, 2, 3]
    after = reading(encoders, "item", "had the table row after")
    assert ids(encoders, after, "item") == [min(row + 1, 3) for row in rows]


def test_numbers_without_their_transform(encoders: Encoders) -> None:
    raw = [0.0, 1.5, 20.0, 0.0]  # the last one is filled
    logs = [math.log1p(value) for value in raw]
    mean = sum(logs) / 4
    std = math.sqrt(sum((value - mean) ** 2 for value in logs) / 4)

    def prices(words: str) -> list[float]:
        return [value for (value,) in dense(encoders, reading(encoders, "price", words), "price")]

    assert prices("was neither transformed (log1p) nor normalised") == pytest.approx(raw)
    assert prices("was not transformed") == pytest.approx([(v - mean) / std for v in raw])
    assert prices("was not normalised") == pytest.approx(logs)
    assert prices("was transformed twice") == pytest.approx(
        [(math.log1p(value) - mean) / std for value in logs]
    )
    assert prices("was normalised twice") == pytest.approx(
        [((value - mean) / std - mean) / std for value in logs], rel=1e-5
    )
    assert prices("was 0 after normalisation") == [0.0] * 4
    assert prices("was read as an integer") == pytest.approx(
        [(math.log1p(math.floor(v)) - mean) / std for v in raw], rel=1e-6
    )
    looks = dense(encoders, reading(encoders, "look", "was not normalised"), "look")
    assert np.allclose(looks, [[3, 4], [1, 0], [0, 0], [0.6, 0.8]])


def test_lists_cut_and_turned(encoders: Encoders) -> None:
    batch = encoders.encode(ROWS, labels=False)
    row_of = dict(zip([1, 2, 3], encoders.mappers["item"](pl.Series([1, 2, 3])), strict=True))

    def seen(items: list[list[int]]) -> list[list[int]]:
        return [[int(row_of[item]) for item in row] for row in items]

    def gaps(values: list[list[int]]) -> list[list[int]]:
        return [[1 + (value >= 1.5) + (value >= 4.5) for value in row] for row in values]

    for words, items, waits in (
        ("was cut to the first items", [1, 2, 3], [1, 2, 3]),
        ("was cut, then reversed", [2, 1, 3], [5, 4, 3]),
        ("was in reverse order", [3, 2, 1], [3, 2, 1]),
        ("lacked its last item", [2, 3, 1], [2, 3, 4]),
        ("lacked its first item", [3, 1, 2], [3, 4, 5]),
        ("was cut to its last 2", [1, 2], [4, 5]),
        ("was cut to its first 2", [1, 2], [1, 2]),
        ("was empty", [], []),
    ):
        found = reading(encoders, "items + gaps", words)
        assert lists(found, "items")[0] == seen([items])[0], words
        assert lists(found, "gaps")[0] == gaps([waits])[0], words
        assert lists(found, "items")[2:] == [[], []]
    cut = reading(encoders, "tags", "was cut to its first 2").bags["tags"]
    assert cut.lengths_B.tolist() == [2, 1, 0, 0]
    assert cut.weights_N is not None
    assert cut.weights_N.tolist() == [0.5, 1.0, 3.0]
    assert torch.equal(cut.values_N[:2], batch.bags["tags"].values_N[:2])
