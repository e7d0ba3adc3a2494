"""Rows of every type: read as they are, answered in kind, nothing of them changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from recmtl.errors import DataError
from recmtl.scoring import BatchScorer


@pytest.fixture(scope="module")
def test_rows(funnel: Path) -> pl.DataFrame:
    return pl.read_parquet(funnel / "test.parquet")


def test_a_pandas_frame_keeps_its_index_and_its_types(run: Path, test_rows: pl.DataFrame) -> None:
    frame = test_rows.to_pandas().sample(frac=1, random_state=0)
    large = pd.array(np.arange(2**62, 2**62 + len(frame)), dtype="Int64")
    large[0] = pd.NA
    frame["request"] = large
    frame["mixed"] = [1, "a"] + [None] * (len(frame) - 2)  # no feature: nobody reads it
    scores = BatchScorer(run, keep=["request", "mixed", "request"])(frame)
    assert list(scores.columns[:3]) == ["request", "mixed", "probs_ctr"]
    pd.testing.assert_frame_equal(scores[["request", "mixed"]], frame[["request", "mixed"]])
    frame["ctr"] = scores["probs_ctr"]  # pandas joins by the index
    expected = BatchScorer(run, keep=())(test_rows)["probs_ctr"]
    np.testing.assert_allclose(frame.sort_index()["ctr"], expected, rtol=0, atol=1e-6)


def test_a_pyarrow_table_keeps_its_types(run: Path, test_rows: pl.DataFrame) -> None:
    table = test_rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    device = table["device"].cast(pa.string()).dictionary_encode()
    table = table.set_column(table.column_names.index("device"), "device", device)
    table = table.append_column("note", pa.array(["x"] * len(table), pa.string()))
    scorer = BatchScorer(run, keep=["device", "note"])
    scores = scorer(pa.concat_tables([table.slice(0, 7), table.slice(7)]))
    assert scores.schema.field("device") == table.schema.field("device")
    assert scores.schema.field("note").type == pa.string()
    assert scores["probs_cvr"].to_pylist() == scorer(table)["probs_cvr"].to_pylist()


def test_arrays_of_objects_are_read(run: Path, test_rows: pl.DataFrame) -> None:
    arrays = {name: test_rows[name].to_numpy() for name in test_rows.columns}
    arrays["device"] = np.array(test_rows["device"].cast(pl.String).to_list(), dtype=object)
    scores = BatchScorer(run, keep=["item_id"])(arrays)
    expected = BatchScorer(run, keep=())(test_rows)
    np.testing.assert_array_equal(scores["probs_ctr"], expected["probs_ctr"].to_numpy())
    arrays["device"][0] = 3
    with pytest.raises(DataError, match="a column cannot be read"):
        BatchScorer(run, keep=())(arrays)


@pytest.mark.parametrize("column", ["user_id", "age", "device", "price", "history"])
@pytest.mark.parametrize("nothing", [None, np.nan])
def test_a_pandas_column_of_nothing_is_null(
    column: str, nothing: float | None, run: Path, test_rows: pl.DataFrame
) -> None:
    scorer = BatchScorer(run, keep=())
    expected = scorer(
        test_rows.with_columns(pl.lit(None).cast(test_rows[column].dtype).alias(column))
    )
    frame = test_rows.to_pandas()
    frame[column] = [nothing] * len(frame)
    np.testing.assert_array_equal(scorer(frame), expected.to_pandas())
    scorer(frame.head(1))


def test_one_value_is_not_taken_for_all_rows(run: Path, test_rows: pl.DataFrame) -> None:
    arrays = {name: test_rows[name].to_list() for name in test_rows.columns}
    scorer = BatchScorer(run, keep=["click"])
    for wrong in (5, "phone", np.int64(5), {"a": 1}, iter([1])):
        with pytest.raises(DataError, match=r"column `device` is a single \w+; expected an array"):
            scorer({**arrays, "device": wrong})
    with pytest.raises(DataError, match=r"`click` .to be kept. has 1 values for"):
        scorer({**arrays, "click": [1]})
    with pytest.raises(DataError, match="height of column 'price'"):
        scorer({**arrays, "price": [1.0]})


def test_a_column_that_is_there_twice_is_named(run: Path, test_rows: pl.DataFrame) -> None:
    table = test_rows.to_arrow()
    twice = table.append_column("price", table["price"]).append_column("click", table["click"])
    scorer = BatchScorer(run, keep=["click"])
    words = (
        r"column `click` \(to be kept\) is there 2 times.*\ncolumn `price` \(feature\) is there 2"
    )
    with pytest.raises(DataError, match=words):
        scorer(twice)
    frame = test_rows.to_pandas()
    with pytest.raises(DataError, match=r"`price` .feature. is there 2 times"):
        scorer(pd.concat([frame, frame[["price"]]], axis=1))
