from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from recmtl.batch import Batch, Ragged
from recmtl.data import EncodeCounts, Encoders
from recmtl.data.hashing import xxh3_64
from recmtl.errors import DataError
from recmtl.spec import SequenceFeature
from tests.data import plain_encoding as plain
from tests.data.strategies import frames, make_spec
from tests.data.worlds import log_of

SPEC = make_spec(weight="weight")


def assert_equal(a: Batch, b: Batch) -> None:
    """Bit for bit, NaN equal to NaN."""
    for one, other in zip(tensors(a), tensors(b), strict=True):
        assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def tensors(batch: Batch) -> list[torch.Tensor]:
    lists = [t for lists in (batch.bags, batch.sequences) for r in lists.values() for t in r]
    fixed = [batch.ids_FB, batch.dense_DB, batch.labels_BK, batch.weight_B, batch.rows_B]
    return fixed + [t for t in lists if t is not None]


def unpacked(column: Ragged) -> list[list[Any]]:
    return [part.tolist() for part in column.values_N.split(column.lengths_B.tolist())]


@settings(max_examples=30)
@given(frame=frames())
def test_counts_are_those_of_the_encoded_log(frame: pl.DataFrame) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(frame))
    batch = encoders.encode(frame, labels=False)
    for table in encoders.tables:
        owner = SPEC.table_owner(table)
        if isinstance(owner.buckets, int):
            continue  # even shares
        if table in encoders.single:
            ids_N = batch.ids_FB[encoders.single.index(table)]
        elif table in encoders.bags:
            if owner.vocab is not None:
                continue  # rows, not items
            ids_N = batch.bags[table].values_N
        else:
            ids_N = batch.sequences[table].values_N
        expected = [0] * encoders.tables[table]
        for i in ids_N.tolist():
            expected[i] += 1
        found = encoders.counts(table).tolist()
        # Nulls and unknown items of a sequence's vocabulary are not counted.
        first = 1 if isinstance(owner, SequenceFeature) and owner.vocab is not None else 0
        assert found[first:] == expected[first:], table


@settings(max_examples=40)
@given(frame=frames())
def test_every_cell_equals_a_plain_loop(frame: pl.DataFrame) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(frame))
    batch = encoders.encode(frame, labels=True)
    rows = frame.to_dicts()

    users = plain.vocabulary([[r["user"]] for r in rows], 2)
    cities = plain.vocabulary([[r["city"]] for r in rows], 1)
    tags = plain.vocabulary([r["tags"] or [] for r in rows], 1)
    words = {w: int(xxh3_64(pl.Series([w]))[0]) for w in frame["brand"].drop_nulls()}
    assert encoders.tables == {
        "user": len(users) + 1,
        "city": len(cities) + 1,
        "item": 51,
        "brand": 51,
        "age": 5,
        "tags": len(tags) + 1,
        "oldest": 10,
    }
    expected = [
        [users.get(r["user"], 0) for r in rows],
        [cities.get(r["city"], 0) for r in rows],
        [plain.hashed(r["item"], 50) for r in rows],
        [0 if r["brand"] is None else words[r["brand"]] % 50 + 1 for r in rows],
        [plain.bucket(r["age"], [18, 30.5, 60]) for r in rows],
    ]
    assert batch.ids_FB.tolist() == expected
    assert unpacked(batch.bags["tags"]) == [[tags.get(t, 0) for t in r["tags"] or []] for r in rows]
    weights_N = batch.bags["tags"].weights_N
    assert weights_N is not None
    assert weights_N.tolist() == [w for r in rows for w in r["tag_weights"] or []]
    history = [[plain.hashed(v, 50) for v in (r["history"] or [])[-3:]] for r in rows]
    assert unpacked(batch.sequences["history"]) == history
    oldest = [[plain.hashed(v, 9) for v in (r["oldest"] or [])[:2]] for r in rows]
    assert unpacked(batch.sequences["oldest"]) == oldest

    prices = [plain.transformed(r["price"], "log1p", 1.5) for r in rows]
    mean, std = plain.mean_and_std(prices, [1.0] * len(rows))
    gaps = [plain.transformed(r["gap"], "signed_log1p", 0.0) for r in rows]
    span = (max(gaps) - min(gaps)) or 1.0
    std = std if max(prices) > min(prices) else 1.0
    np.testing.assert_allclose(batch.dense_DB[0], [(p - mean) / std for p in prices], 1e-5, 1e-5)
    np.testing.assert_allclose(
        batch.dense_DB[1], [(g - min(gaps)) / span for g in gaps], 1e-5, 1e-5
    )

    assert encoders.spec.dense_rows == {
        "price": slice(0, 1),
        "gap": slice(1, 2),
        "look": slice(2, 5),
        "text": slice(5, 7),
    }
    looks = [plain.unit(r["look"], 3) for r in rows]
    np.testing.assert_allclose(batch.dense_DB[2:5].T, looks, 1e-5, 1e-6)
    texts = plain.standardised([r["text"] for r in rows], 2)
    np.testing.assert_allclose(batch.dense_DB[5:7].T, texts, 1e-5, 1e-5)

    for k, label in enumerate(("click", "buy", "dwell_s")):
        for value, row in zip(batch.labels_BK[:, k].tolist(), rows, strict=True):
            assert math.isnan(value) if row[label] is None else value == np.float32(row[label])
    assert batch.weight_B.tolist() == [r["weight"] for r in rows]
    assert batch.rows_B.tolist() == list(range(len(rows)))


@settings(max_examples=25)
@given(frame=frames())
def test_rates_and_scales_equal_a_plain_loop(frame: pl.DataFrame) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(frame))
    rows = [row for row in frame.to_dicts() if row["weight"] > 0]  # the others observe nothing
    for task, label, given_ in (("ctr", "click", None), ("cvr", "buy", "click")):
        seen = [r for r in rows if r[label] is not None and (not given_ or r[given_] == 1)]
        rate, _ = plain.mean_and_std([r[label] for r in seen], [r["weight"] for r in seen])
        margin = 0.5 / len(seen)
        assert encoders.base_rates[task] == pytest.approx(min(max(rate, margin), 1 - margin))
        positives = sum(r[label] for r in seen)
        assert encoders.populations[task] == (len(seen), positives)
    seen = [r for r in rows if r["dwell_s"] is not None and r["click"] == 1]
    times = [r["dwell_s"] for r in seen]
    mean, std = plain.mean_and_std(times, [r["weight"] for r in seen])
    assert encoders.label_scales["dwell"][0] == pytest.approx(mean, abs=1e-9)
    if max(times) == min(times) or std > 1e-3:
        wanted = std if max(times) > min(times) else 1.0
        assert encoders.label_scales["dwell"][1] == pytest.approx(wanted)


@settings(max_examples=40)
@given(train=frames(), frame=frames(), cut=st.integers(0, 13))
def test_encoding_commutes_with_slicing_and_concatenation(
    train: pl.DataFrame, frame: pl.DataFrame, cut: int
) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(train))
    cut = min(cut, frame.height)
    rows = np.arange(7, 7 + frame.height)
    whole = encoders.encode(frame, labels=True, rows=rows)
    order = torch.arange(frame.height)
    first = encoders.encode(frame[:cut], labels=True, rows=rows[:cut])
    second = encoders.encode(frame[cut:], labels=True, rows=rows[cut:])
    assert_equal(first, whole.select(order[:cut]))
    assert_equal(second, whole.select(order[cut:]))


@settings(max_examples=25)
@given(train=frames(), frame=frames())
def test_ids_stay_inside_their_tables(train: pl.DataFrame, frame: pl.DataFrame) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(train))
    batch = encoders.encode(frame, labels=False)
    spec = encoders.spec
    columns = dict(zip(encoders.single, batch.ids_FB, strict=True))
    columns |= {n: r.values_N for n, r in (batch.bags | batch.sequences).items()}
    for feature in (*spec.sparse, *spec.sequences):
        ids = columns[feature.name]
        assert ids.dtype == torch.int64
        assert ((ids >= 0) & (ids < encoders.tables[spec.table_of(feature)])).all()


@settings(max_examples=15)
@given(frame=frames())
def test_lazy_equals_eager(frame: pl.DataFrame) -> None:
    log = log_of(frame)
    encoders = Encoders.fit(SPEC, train=log)
    columns = encoders.columns(labels=True)
    lazy = log.lazy(columns).collect()
    assert_equal(
        encoders.encode(lazy, labels=True),
        encoders.encode(log.read(columns, 0, log.num_rows), labels=True),
    )


@settings(max_examples=15)
@given(frame=frames(min_rows=4), chunks=st.integers(1, 4))
def test_chunked_and_fixed_size_frames(frame: pl.DataFrame, chunks: int) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(frame))
    step = -(-frame.height // chunks)
    chunked = pl.concat([frame.slice(i, step) for i in range(0, frame.height, step)], rechunk=False)
    assert_equal(encoders.encode(chunked, labels=True), encoders.encode(frame, labels=True))


def test_array_columns_are_lists() -> None:
    spec = make_spec(
        [{"name": "seen", "type": "sequence", "vocab": {}, "dim": 4, "max_len": 2}], CTR
    )
    lists = pl.DataFrame({"seen": [[1, 2, 3], None, [3, 1, 2]], "click": [0, 1, 1]})
    arrays = lists.with_columns(pl.col("seen").cast(pl.Array(pl.Int64, 3)))
    encoders = Encoders.fit(spec, train=log_of(arrays))
    assert_equal(encoders.encode(arrays, labels=True), encoders.encode(lists, labels=True))


CTR = [{"name": "ctr", "label": "click"}]


def one(column: str, values: list[Any], **options: Any) -> tuple[Encoders, pl.DataFrame]:
    """Encoders of one feature, fitted on these values."""
    spec = make_spec([{"name": column, **options}], CTR)
    frame = pl.DataFrame({column: values, "click": [i % 2 for i in range(len(values))]})
    return Encoders.fit(spec, train=log_of(frame)), frame


@pytest.mark.parametrize(
    ("values", "options", "family"),
    [
        ([1, 2], {"vocab": {}}, "int"),
        (["1", "2"], {"vocab": {}}, "string"),
        ([["1"], ["2"]], {"hash": 8}, "string"),
        ([1, 2], {"buckets": 2}, "number"),
    ],
)
def test_families_say_what_tables_were_fitted_on(
    values: list[Any], options: dict[str, Any], family: str
) -> None:
    encoders, _ = one("id", values, type="sparse", dim=4, **options)
    assert encoders.families == {"id": family}


def test_large_ids_survive_from_file_to_lookup_pitfall_T36() -> None:
    ids = [2**24, 2**24 + 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63 - 2, None]
    encoders, frame = one("x", ids, type="sparse", vocab={}, dim=4)
    rows = encoders.encode(frame, labels=False).ids_FB[0].tolist()
    assert sorted(rows[:-1]) == [1, 2, 3, 4, 5, 6]
    assert rows[-1] == 0
    hashed, _ = one("x", ids, type="sparse", hash=10**9, dim=4)
    got = hashed.encode(frame, labels=False).ids_FB[0].tolist()
    assert got == [plain.hashed(v, 10**9) for v in ids]


def test_empty_null_and_ragged_lists_pitfall_T37() -> None:
    lists = [[3, 1], [], None, [None, 3], [1]]
    for options in (
        {"type": "sparse", "vocab": {}},
        {"type": "sequence", "vocab": {}, "max_len": 5},
    ):
        encoders, frame = one("x", lists, dim=4, **options)
        batch = encoders.encode(frame, labels=False)
        column = (batch.bags | batch.sequences)["x"]
        assert column.lengths_B.tolist() == [2, 0, 0, 2, 1]
        assert unpacked(column) == [[2, 1], [], [], [0, 2], [1]]


def test_unseen_ids_are_counted_and_validation_is_not_fitted_pitfall_T38() -> None:
    encoders, _ = one("x", ["a", "a", "b", None], type="sparse", vocab={"min_count": 2}, dim=4)
    assert encoders.tables == {"x": 2}
    counts = EncodeCounts()
    frame = pl.DataFrame({"x": ["a", "b", "new", None]})
    batch = encoders.encode(frame, labels=False, counts=counts)
    assert batch.ids_FB.tolist() == [[1, 0, 0, 0]]
    assert counts.to_dict() == {"x": {"values": 4, "nulls": 1, "oov": 2}}


def test_counts_of_every_kind_of_feature() -> None:
    frame = pl.DataFrame(
        {
            "user": [1, 1, 2, None],
            "city": ["x", "y", None, None],
            "item": [1, None, 2, 3],
            "brand": ["q", None, None, None],
            "age": [1.0, float("nan"), None, 70.0],
            "tags": [["a", None], None, [], ["b"]],
            "tag_weights": [[1.0, 2.0], None, [], [1.0]],
            "history": [[1, None, 2, 3], None, [], [1]],
            "oldest": [[1, 2, None], [None], [], [1]],
            "look": [[1.0, 2.0, 3.0], None, [0.0] * 3, None],
            "price": [1.0, None, float("inf"), 2.0],
            "gap": [1.0, 2.0, 3.0, 4.0],
            "text": [[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]],
            "click": [1, 0, 1, 1],
            "buy": [0, 0, 1, None],
            "dwell_s": [1.0, None, 2.0, 3.0],
            "weight": [1.0] * 4,
        }
    )
    encoders = Encoders.fit(SPEC, train=log_of(frame))
    counts, twice = EncodeCounts(), EncodeCounts()
    encoders.encode(frame, labels=True, counts=counts)
    for _ in range(2):
        encoders.encode(frame, labels=True, counts=twice)
    found = counts.to_dict()
    assert {name: tuple(c.values()) for name, c in found.items()} == {
        "user": (4, 1, 1),
        "city": (4, 2, 0),
        "item": (4, 1, 0),
        "brand": (4, 3, 0),
        "age": (4, 2, 0),
        "tags": (3, 2, 0),
        "history": (4, 2, 0),  # of [1, None, 2, 3] the last three
        "oldest": (4, 1, 0),
        "price": (4, 2, 0),
        "gap": (4, 0, 0),
        "look": (4, 2, 0),
        "text": (4, 1, 0),
    }
    assert twice.to_dict()["user"] == {"values": 8, "nulls": 2, "oov": 2}
    again = EncodeCounts.from_dict(found)
    again.add(counts)
    assert again.to_dict() == twice.to_dict()


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Int32])
def test_width_at_scoring_does_not_matter(dtype: pl.DataType) -> None:
    encoders, frame = one("x", [3, 5, 5], type="sparse", vocab={}, dim=4)
    narrow = frame.with_columns(pl.col("x").cast(dtype))
    assert_equal(encoders.encode(narrow, labels=False), encoders.encode(frame, labels=False))


def test_booleans_and_categories() -> None:
    encoders, frame = one("x", [True, None, True, False], type="sparse", vocab={}, dim=4)
    assert encoders.encode(frame, labels=False).ids_FB.tolist() == [[1, 0, 1, 2]]
    encoders, frame = one("x", ["u", "v", "v"], type="sparse", vocab={}, dim=4)
    categories = frame.with_columns(pl.col("x").cast(pl.Categorical))
    assert encoders.encode(categories, labels=False).ids_FB.tolist() == [[2, 1, 1]]


def test_scoring_needs_no_labels() -> None:
    encoders, frame = one("x", [1, 2], type="sparse", vocab={}, dim=4)
    batch = encoders.encode(frame.drop("click"), labels=False)
    assert batch.labels_BK.shape == (2, 0)
    assert batch.weight_B.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            pl.Series(["a"]),
            "column `x` is String, but it was fitted on integers. Cast it to Int64.",
        ),
        (
            pl.Series([1.0]),
            "column `x` is Float64, but it was fitted on integers. Cast it to Int64.",
        ),
        (
            pl.Series([[1]]),
            "column `x` is List(Int64), but it was fitted on single values. Write it",
        ),
        (pl.Series([2**63], dtype=pl.UInt64), "column `x`: 1 values do not fit into Int64."),
    ],
)
def test_other_types_at_scoring(values: pl.Series, words: str) -> None:
    import re

    encoders, _ = one("x", [1, 2], type="sparse", vocab={}, dim=4)
    with pytest.raises(DataError, match=re.escape(words)):
        encoders.encode(pl.DataFrame({"x": values}), labels=False)


def test_a_column_of_nulls_at_scoring() -> None:
    for values, options in (
        (["a", "b"], {"type": "sparse", "vocab": {}}),
        ([1, 2], {"type": "sparse", "hash": 7}),
        ([1, 2], {"type": "sparse", "buckets": [1.5]}),
    ):
        encoders, _ = one("x", values, dim=4, **options)
        batch = encoders.encode(pl.DataFrame({"x": [None, None]}), labels=False)
        assert batch.ids_FB.tolist() == [[0, 0]]
    encoders, _ = one("x", [[1], [2]], dim=4, type="sparse", vocab={})
    assert unpacked(encoders.encode(pl.DataFrame({"x": [None]}), labels=False).bags["x"]) == [[]]


def test_all_problems_of_a_frame_at_once() -> None:
    encoders = Encoders.fit(SPEC, train=log_of(good()))
    bad = good().with_columns(
        pl.lit("x").alias("user"), pl.lit("y").alias("price"), pl.lit(1.0).alias("look")
    )
    with pytest.raises(DataError, match="`user`") as caught:
        encoders.encode(bad.drop("gap", "click"), labels=True)
    assert str(caught.value).splitlines() == [
        "column `gap` is missing.",
        "column `click` is missing.",
        "column `user` is String, but it was fitted on integers. Cast it to Int64.",
        "column `price` is String, but dense features are numbers. Cast it.",
        "column `look` is Float64, but it was fitted on lists of 3 numbers. Write it as in "
        "training.",
    ]


def good() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": [1, 2],
            "city": ["a", "b"],
            "item": [1, 2],
            "brand": ["a", "b"],
            "age": [1.0, 2.0],
            "tags": [["a"], ["b"]],
            "tag_weights": [[1.0], [2.0]],
            "history": [[1], [2, 1]],
            "oldest": [[1], [2]],
            "look": [[1.0, 0.0, 2.0], [0.5, 0.5, 0.5]],
            "price": [1.0, 2.0],
            "gap": [1.0, 2.0],
            "text": [[1.0, 2.0], [3.0, 4.0]],
            "click": [1, 1],
            "buy": [0, 1],
            "dwell_s": [1.0, 2.0],
            "weight": [1.0, 2.0],
        }
    )


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("click", [1, 2], r"column `click`: 1 labels are neither 0, 1 nor null \(for example 2\)"),
        ("click", [0.5, 1.0], r"1 labels are neither 0, 1 nor null \(for example 0.5\)"),
        ("buy", [float("nan"), 1.0], "column `buy`: 1 labels are NaN. Write null"),
        ("dwell_s", [float("inf"), 1.0], "column `dwell_s`: 1 labels are infinite"),
        ("weight", [-1.0, 1.0], "column `weight`: 1 sample weights are null, NaN, infinite or neg"),
        ("weight", [None, float("nan")], "column `weight`: 2 sample weights are null, NaN"),
        ("price", [-1.0, 2.0], "column `price`: 1 values are negative"),
        ("look", [[1.0, 2.0], [0.0] * 3], r"length than `dim`, 3 \(for example 2 in row 0\)\."),
        ("look", [[1.0] * 3, [0.0, None, 1.0]], r"NaN or a number .* \(for example in row 1\)\."),
        ("text", [[1.0], [1.0, float("nan")]], "`text`: 1 lists have another length than `dim`, 2"),
        ("tag_weights", [[1.0], []], "1 rows have another number of weights than `tags` has items"),
        ("tag_weights", [None, [1.0]], r"1 rows have another number .* \(for example 0 for 1\)"),
        ("tag_weights", [[float("nan")], [None]], "column `tag_weights`: 2 weights are null, NaN"),
    ],
)
def test_values_that_are_forbidden(column: str, values: list[Any], words: str) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(good()))
    bad = good().with_columns(pl.Series(column, values, strict=False))
    with pytest.raises(DataError, match=words):
        encoders.encode(bad, labels=True)
    with pytest.raises(DataError, match=rf"train\.parquet: column `{column}`"):
        Encoders.fit(SPEC, train=log_of(bad))


@pytest.mark.parametrize("null_item", [False, True])
def test_nulls_that_are_errors(null_item: bool) -> None:
    bad: list[Any] = [[1, None], [2]] if null_item else [None, [2]]
    for options in ({"type": "sparse"}, {"type": "sequence", "max_len": 4}):
        encoders, _ = one("x", [[1], [2]], dim=4, vocab={}, nulls="error", **options)
        with pytest.raises(
            DataError, match="column `x`: 1 values are null, and `nulls` is `error`"
        ):
            encoders.encode(pl.DataFrame({"x": bad}), labels=False)
        with pytest.raises(DataError, match=r"train\.parquet: column `x`: 1 values are null"):
            one("x", bad, dim=4, vocab={}, nulls="error", **options)


def test_aligned_sequences_have_one_length() -> None:
    spec = make_spec(
        [
            {"name": "seen", "type": "sequence", "vocab": {}, "dim": 4, "max_len": 1},
            {"name": "when", "type": "sequence", "buckets": [2], "dim": 4, "max_len": 1},
        ],
        CTR,
    )
    good = pl.DataFrame({"seen": [[1, 2], None], "when": [[1, 2], []], "click": [0, 1]})
    encoders = Encoders.fit(spec, train=log_of(good))
    bad = good.with_columns(pl.Series("when", [[1, 2], [3]]))
    with pytest.raises(DataError, match="`when`: 1 rows have another length than `seen`"):
        encoders.encode(bad, labels=False)
    with pytest.raises(DataError, match="`when`: 1 rows have another length than `seen`"):
        Encoders.fit(spec, train=log_of(bad))
