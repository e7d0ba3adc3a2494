"""Vector features against plain loops: lengths, norms, scales, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Encoders, TrainStreams, open_log
from recmtl.data.vectors import VectorFit, VectorScale, normalise_vectors, read_vectors
from recmtl.errors import DataError
from recmtl.spec import VectorFeature
from tests.data import plain_encoding as plain
from tests.data.strategies import make_spec
from tests.data.worlds import log_of

CTR = [{"name": "ctr", "label": "click"}]
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
TAME = st.floats(-1e6, 1e6, width=32)


def feature(dim: int, **options: Any) -> VectorFeature:
    return VectorFeature(name="x", type="vector", dim=dim, **options)


def lists(numbers: st.SearchStrategy[float], dim: int = 4) -> st.SearchStrategy[list[Any]]:
    one = st.lists(numbers, min_size=dim, max_size=dim)
    return st.lists(st.none() | one, max_size=9)


def encoded(
    values: list[Any], dim: int, scale: VectorScale | None = None, **options: Any
) -> np.ndarray:
    """The rows of the values, normalised."""
    vectors = read_vectors(feature(dim, **options), pl.Series("x", values, pl.List(pl.Float32)))
    assert not vectors.problems
    out_VB = np.full((dim, len(values)), np.nan, np.float32)
    normalise_vectors(feature(dim, **options), scale, vectors, out_VB)
    return out_VB.T


@given(values=lists(NUMBERS))
@example([[1e-42, 0.0, 0.0, 0.0], [3e38, -3e38, 0.0, 1.0], [2e-20, 1e-20, 0.0, 0.0]])
@example([[0.0, 0.0, 0.0, 0.0], None, [1.0, 2.0, 2.0, 4.0]])
def test_l2_is_the_vector_over_its_norm(values: list[Any]) -> None:
    expected = np.array([plain.unit(v, 4) for v in values]).reshape(-1, 4)
    np.testing.assert_allclose(encoded(values, 4), expected, rtol=1e-5, atol=1e-7)


@given(values=lists(NUMBERS))
def test_none_leaves_numbers_alone(values: list[Any]) -> None:
    expected = np.array([[0.0] * 4 if v is None else v for v in values], np.float32)
    np.testing.assert_array_equal(encoded(values, 4, normalize="none"), expected.reshape(-1, 4))


@given(values=lists(TAME), cut=st.integers(0, 9))
def test_standard_takes_mean_and_deviation_of_lists_that_are_there(
    values: list[Any], cut: int
) -> None:
    options = {"normalize": "standard"}
    fit = VectorFit(4)
    for part in (values[:cut], values[cut:]):
        column = pl.Series("x", part, pl.List(pl.Float32))
        fit.add(read_vectors(feature(4, **options), column))
    expected = np.array(plain.standardised(values, 4)).reshape(-1, 4)
    found = encoded(values, 4, fit.scale(), **options)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_constant_component_is_zero() -> None:
    fit = VectorFit(2)
    values = [[0.1, float(n)] for n in range(1000)]
    fit.add(read_vectors(feature(2, normalize="standard"), pl.Series(values)))
    assert fit.scale().scale_V[0] == 1.0
    found = encoded(values, 2, fit.scale(), normalize="standard")
    np.testing.assert_allclose(found[:, 0], 0.0, atol=1e-8)


def test_no_cancellation_far_from_zero() -> None:
    fit = VectorFit(1)
    column = pl.Series([[1e9 + n % 3] for n in range(300)])
    fit.add(read_vectors(feature(1, normalize="standard"), column))
    np.testing.assert_allclose(fit.scale().scale_V, np.sqrt(2 / 3), rtol=1e-6)


def test_far_outside_the_training_range_stays_finite() -> None:
    scale = VectorScale(np.zeros(2), np.full(2, 1e-300))
    found = encoded([[1.0, -1.0]], 2, scale, normalize="standard")
    largest = np.finfo(np.float32).max
    assert found.tolist() == [[largest, -largest]]


@pytest.mark.parametrize("normalize", ["l2", "standard", "none"])
def test_a_null_is_zero_behind_the_normalisation(normalize: str) -> None:
    scale = VectorScale(np.full(2, 7.0), np.ones(2))
    assert encoded([None, [8.0, 9.0]], 2, scale, normalize=normalize)[0].tolist() == [0.0, 0.0]


def one(values: Any, dtype: Any = None, **options: Any) -> tuple[Encoders, pl.DataFrame]:
    """Encoders of one vector, fitted on these values."""
    spec = make_spec([{"name": "x", "type": "vector", **options}], CTR)
    column = pl.Series("x", values, dtype)
    frame = pl.DataFrame({"x": column, "click": np.arange(len(column)) % 2})
    return Encoders.fit(spec, train=log_of(frame)), frame


TYPES = [
    pl.List(pl.Float32),
    pl.List(pl.Float64),
    pl.Array(pl.Float32, 2),
    pl.Array(pl.Float64, 2),
    pl.List(pl.Int8),
    pl.Array(pl.UInt16, 2),
    pl.List(pl.Decimal(9, 2)),
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("normalize", ["l2", "standard", "none"])
def test_every_kind_of_list_of_numbers(dtype: Any, normalize: str) -> None:
    values = [[3, 4], None, [0, 0], [6, 8], [1, 0]]
    encoders, frame = one(values, dtype, dim=2, normalize=normalize)
    expected, floats = one(values, pl.List(pl.Float64), dim=2, normalize=normalize)
    batch = encoders.encode(frame, labels=False)
    assert batch.dense_DB.equal(expected.encode(floats, labels=False).dense_DB)
    assert batch.dense_DB.equal(encoders.encode(floats, labels=False).dense_DB)
    assert batch.dense_DB.dtype == torch.float32


def test_parts_of_a_frame_and_of_an_array() -> None:
    values_BV = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    encoders, frame = one(values_BV, dim=64)
    whole_DB = encoders.encode(frame, labels=False).dense_DB
    np.testing.assert_allclose(
        whole_DB.T, values_BV / np.linalg.norm(values_BV, axis=1, keepdims=True), rtol=1e-5
    )
    for start, stop in ((0, 1), (1, 2), (7, 150), (0, 0)):
        part = encoders.encode(frame[start:stop], labels=False)
        assert part.dense_DB.equal(whole_DB[:, start:stop])
    as_lists = frame.with_columns(pl.col("x").arr.to_list())
    chunked = pl.concat([as_lists[:100], as_lists[100:]], rechunk=False)
    assert encoders.encode(chunked, labels=False).dense_DB.equal(whole_DB)


def test_a_column_of_nulls_at_scoring() -> None:
    encoders, _ = one([[1.0, 2.0], [3.0, 4.0]], dim=2, normalize="standard")
    counts = EncodeCounts()
    batch = encoders.encode(pl.DataFrame({"x": [None, None]}), labels=False, counts=counts)
    assert batch.dense_DB.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert counts.to_dict() == {"x": {"values": 2, "nulls": 2, "oov": 0}}


WRONG: list[tuple[Any, dict[str, Any], list[str]]] = [
    (
        [[1.0, 2.0], [1.0], None, [1.0, 2.0, 3.0], []],
        {},
        [
            "column `x`: 3 lists have another length than `dim`, 2 (for example 1 in row 1). Write "
            "lists of one length, and this length as `dim`."
        ],
    ),
    (
        [[1.0, 2.0], [float("nan"), 2.0], [None, None], [1.0, float("-inf")], None],
        {},
        [
            "column `x`: 3 lists hold a null, NaN or a number that is infinite or too large for a "
            "float32 (for example in row 1). Repair them, or write a null in place of such a list."
        ],
    ),
    (
        [[1e39, 0.0], [1.0, 2.0]],
        {},
        [
            "column `x`: 1 lists hold a null, NaN or a number that is infinite or too large for a "
            "float32 (for example in row 0). Repair them, or write a null in place of such a list."
        ],
    ),
    (
        [None, [1.0, 2.0], None],
        {"nulls": "error"},
        [
            "column `x`: 2 lists are null, and `nulls` is `error`. Repair the column, or use "
            "`nulls: zeros`."
        ],
    ),
    (
        [None, [1.0], [1.0, 2.0], [1.0, None]],
        {"nulls": "error"},
        [
            "column `x`: 1 lists are null, and `nulls` is `error`. Repair the column, or use "
            "`nulls: zeros`.",
            "column `x`: 1 lists have another length than `dim`, 2 (for example 1 in row 1). Write "
            "lists of one length, and this length as `dim`.",
            "column `x`: 1 lists hold a null, NaN or a number that is infinite or too large for a "
            "float32 (for example in row 3). Repair them, or write a null in place of such a list.",
        ],
    ),
]


@pytest.mark.parametrize(("values", "options", "expected"), WRONG)
@pytest.mark.parametrize("normalize", ["l2", "standard", "none"])
def test_what_is_refused_in_fitting_and_encoding(
    values: Any, options: dict[str, Any], expected: list[str], normalize: str
) -> None:
    dtype = pl.List(pl.Float64)
    with pytest.raises(DataError, match=r"train\.parquet: column `x`") as caught:
        one(values, dtype, dim=2, normalize=normalize, **options)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[2] for line in lines] == expected
    encoders, _ = one([[1.0, 2.0]] * 2, dim=2, normalize=normalize, **options)
    frame = pl.DataFrame({"x": pl.Series(values, dtype=dtype)})
    with pytest.raises(DataError, match="column `x`") as caught:
        encoders.encode(frame, labels=False)
    assert str(caught.value).splitlines() == expected


def test_rows_are_counted_over_the_log_and_numbered_in_it() -> None:
    values = [[1.0, 2.0]] * 700
    values[600], values[650] = [1.0], [1.0, 2.0, 3.0]
    expected = r"2 lists have another length than `dim`, 2 \(for example 1 in row 600\)"
    with pytest.raises(DataError, match=expected):
        one(values, dim=2)
    encoders, _ = one([[1.0, 2.0]] * 2, dim=2)
    with pytest.raises(DataError, match=r"for example 1 in row 90\)"):
        encoders.encode(pl.DataFrame({"x": [[1.0]]}), labels=False, rows=np.array([90]))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, 2.0], "Float64"),
        (["a", "b"], "String"),
        ([["a"], ["b"]], "List(String)"),
        ([[[1.0]], [[2.0]]], "List(List(Float64))"),
    ],
)
def test_columns_that_are_no_lists_of_numbers(values: Any, dtype: str) -> None:
    words = f"column `x` is {dtype}, the spec says vector (lists of 2 numbers). Write it as a list"
    with pytest.raises(DataError, match=re.escape(words)):
        one(values, dim=2)
    encoders, _ = one([[1.0, 2.0]] * 2, dim=2)
    words = f"column `x` is {dtype}, but it was fitted on lists of 2 numbers."
    with pytest.raises(DataError, match=re.escape(words)):
        encoders.encode(pl.DataFrame({"x": values}), labels=False)


def test_csv_has_no_form_for_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('x,click\n"[1,2]",1\n"[3,4]",0\n', encoding="utf-8")
    spec = make_spec([{"name": "x", "type": "vector", "dim": 2}], CTR, train="log.csv")
    expected = r"log\.csv: column `x` \(feature `x`\) is a list, which CSV has no form for"
    with pytest.raises(DataError, match=expected):
        Encoders.fit(spec, tmp_path)


def test_files_of_several_types_are_one_log(tmp_path: Path) -> None:
    for number, dtype in enumerate(TYPES):
        column = pl.Series("x", [[3, 4], [1, 0]], dtype)
        frame = pl.DataFrame({"x": column, "click": [0, 1]})
        frame.write_parquet(tmp_path / f"part-{number}.parquet")
    spec = make_spec([{"name": "x", "type": "vector", "dim": 2}], CTR, train=".")
    encoders = Encoders.fit(spec, tmp_path)
    log = open_log(tmp_path, columns=encoders.wanted(labels=True))
    batch = encoders.encode(log.read(["x"], 0, log.num_rows), labels=False)
    expected = [[0.6, 0.8], [1.0, 0.0]] * len(TYPES)
    np.testing.assert_allclose(batch.dense_DB.T, expected, rtol=1e-6)


@pytest.mark.parametrize("memory_bytes", [100_000_000, 60_000], ids=["in memory", "pools"])
def test_shuffled_rows_keep_their_vectors(memory_bytes: int) -> None:
    rows = 1001
    values_BV = np.random.default_rng(3).normal(size=(rows, 5)).astype(np.float32)
    frame = pl.DataFrame(
        {"x": values_BV, "y": -values_BV[:, :2], "z": np.arange(rows), "click": np.arange(rows) % 2}
    )
    spec = make_spec(
        [
            {"name": "x", "type": "vector", "dim": 5, "normalize": "none"},
            {"name": "z", "type": "dense", "normalize": "none"},
            {"name": "y", "type": "vector", "dim": 2, "normalize": "none"},
        ],
        CTR,
    )
    log = log_of(frame, group_rows=100)
    encoders = Encoders.fit(spec, train=log)
    assert encoders.row_bytes == 4 * (8 + 1 + 1 + 2)
    found: list[Batch] = []
    for rank in range(2):
        streams = TrainStreams(
            log, encoders, batch_size=64, seed=0, memory_bytes=memory_bytes, rank=rank, world_size=2
        )
        found += streams.batches(0)
    seen = []
    for batch in found:
        real = batch.rows_B >= 0
        numbers = batch.rows_B[real].numpy()
        z_x_y_BD = np.column_stack([numbers, values_BV[numbers], -values_BV[numbers, :2]])
        np.testing.assert_array_equal(batch.dense_DB[:, real].T, z_x_y_BD.astype(np.float32))
        seen += numbers.tolist()
    assert seen != sorted(seen)
    assert sorted(seen) == list(range(rows))
