"""BatchScorer: the same scores for every kind of frame, in every process, in any cut of rows."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from recmtl.errors import CheckpointError, DataError, SpecError
from recmtl.scoring import BatchScorer
from recmtl.scoring.parts import passes_at_once
from tests.runs import change_state, copied

WITHOUT_TRAINING = """
import sys
for name in ("torchrec", "fbgemm_gpu", "lightning"):
    sys.modules[name] = None  # an import of it fails
import polars as pl
from recmtl import BatchScorer
BatchScorer({run!r})(pl.read_parquet({data!r})).write_parquet({out!r})
"""


@pytest.fixture(scope="module")
def test_rows(funnel: Path) -> pl.DataFrame:
    return pl.read_parquet(funnel / "test.parquet")


@pytest.fixture(scope="module")
def scorer(run: Path) -> BatchScorer:
    return BatchScorer(run)


def test_columns_are_the_kept_ones_and_one_a_task(
    scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    scores = scorer(test_rows)
    assert scores.columns == ["user_id", "item_id", "probs_ctr", "probs_cvr", "probs_ctcvr"]
    assert scores.select("user_id", "item_id").equals(test_rows.select("user_id", "item_id"))
    assert set(scores.dtypes[2:]) == {pl.Float32}
    product = scores["probs_ctr"].cast(pl.Float64) * scores["probs_cvr"]
    np.testing.assert_allclose(scores["probs_ctcvr"], product, rtol=1e-6)


def test_nothing_but_scores(run: Path, scorer: BatchScorer, test_rows: pl.DataFrame) -> None:
    alone = BatchScorer(run, keep=())(test_rows)
    assert_frame_equal(alone, scorer(test_rows).drop("user_id", "item_id"))


def test_pandas_pyarrow_and_polars_agree_and_are_answered_in_kind(
    scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    expected = scorer(test_rows)
    table = test_rows.to_arrow()
    frame = scorer(test_rows.to_pandas())
    assert isinstance(frame, pd.DataFrame)
    assert_frame_equal(pl.from_pandas(frame), expected, check_dtypes=False)
    assert isinstance(scorer(table), pa.Table)
    assert_frame_equal(pl.DataFrame(scorer(table)), expected)
    batch = scorer(table.combine_chunks().to_batches()[0])
    assert isinstance(batch, pa.RecordBatch)
    assert_frame_equal(pl.DataFrame(pl.from_arrow(batch)), expected)


def test_other_cuts_of_the_rows_give_the_same_scores(
    scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    whole = scorer(test_rows)
    pieces = pl.concat([scorer(test_rows[i : i + 7]) for i in range(0, 70, 7)])
    assert_frame_equal(pieces, whole.head(70), rel_tol=0, abs_tol=1e-6)


def test_an_empty_frame_has_no_scores(scorer: BatchScorer, test_rows: pl.DataFrame) -> None:
    empty = scorer(test_rows.head(0))
    assert empty.height == 0
    assert empty.columns == scorer(test_rows.head(1)).columns
    pandas, table = test_rows.head(0).to_pandas(), test_rows.head(0).to_arrow()
    batch = pa.RecordBatch.from_arrays(
        [c.combine_chunks() for c in table.columns], table.schema.names
    )
    for rows in (pandas, table, batch):
        scores = scorer(rows)
        assert type(scores) is type(rows)
        assert len(scores) == 0
        assert pl.DataFrame(scores).columns == empty.columns


def test_it_is_pickled_by_its_path_and_options(run: Path, test_rows: pl.DataFrame) -> None:
    scorer = BatchScorer(run, keep=["item_id"])
    expected = scorer(test_rows)
    sent = pickle.dumps(scorer)
    assert len(sent) < 1_000
    assert pickle.loads(sent)(test_rows).equals(expected)


def test_a_process_opens_what_it_unpickles_once(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    sent = pickle.dumps(BatchScorer(copy, keep=["item_id"], tables="fp16"))
    first = pickle.loads(sent)
    assert (first.keep, first.tables) == (("item_id",), "fp16")
    assert pickle.loads(sent) is first
    change_state(copy, data="other")  # trained anew
    assert pickle.loads(sent) is not first
    assert pickle.loads(pickle.dumps(BatchScorer(copy))).keep == BatchScorer(copy).keep
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match="is not a run folder"):
        pickle.loads(sent)


@pytest.mark.parametrize("frames", ["polars", "pandas", "pyarrow"])
def test_a_scorer_that_was_sent_takes_every_kind_of_frame(
    frames: str, run: Path, scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    sent = pickle.loads(pickle.dumps(scorer))
    kinds = {"polars": test_rows, "pandas": test_rows.to_pandas(), "pyarrow": test_rows.to_arrow()}
    found = pl.DataFrame(sent(kinds[frames]))
    assert_frame_equal(found, scorer(test_rows), check_dtypes=False)


def test_passes_of_one_thread_give_the_same_scores_in_any_number(
    scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    batch = scorer.encoders.encode(pl.concat([test_rows] * 21), labels=False)
    found = []
    for threads in (1, 2, 3):
        with passes_at_once(threads) as pool:
            found.append(scorer.scores(batch, through=pool.map))
    for column, expected in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(other[column], expected)
        np.testing.assert_allclose(scorer.scores(batch)[column], expected, rtol=0, atol=1e-6)


@pytest.mark.multiprocess
def test_a_worker_process_gives_the_same_scores(run: Path, test_rows: pl.DataFrame) -> None:
    scorer = BatchScorer(run)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (scores,) = pool.map(scorer, [test_rows])
    assert scores.equals(scorer(test_rows))


@pytest.mark.slow
def test_scoring_needs_neither_torchrec_nor_fbgemm_nor_lightning(
    run: Path, funnel: Path, scorer: BatchScorer, test_rows: pl.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "scores.parquet"
    code = WITHOUT_TRAINING.format(run=str(run), data=str(funnel / "test.parquet"), out=str(out))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_frame_equal(pl.read_parquet(out), scorer(test_rows), rel_tol=0, abs_tol=1e-6)


def test_columns_that_are_missing_are_all_named(
    scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    with pytest.raises(DataError, match=r"`price`") as error:
        scorer(test_rows.drop("price", "brand"))
    assert "`brand`" in str(error.value)


def test_a_column_to_keep_that_is_missing_is_named(run: Path, test_rows: pl.DataFrame) -> None:
    with pytest.raises(DataError, match=r"`nothing`"):
        BatchScorer(run, keep=["nothing"])(test_rows)


def test_a_column_to_keep_that_is_called_like_a_score_is_refused(
    run: Path, test_rows: pl.DataFrame
) -> None:
    with pytest.raises(SpecError, match=r"a score column is called `probs_ctr` too"):
        BatchScorer(run, keep="probs_ctr")(test_rows.with_columns(probs_ctr=1))


def test_rows_of_another_type_are_refused(scorer: BatchScorer) -> None:
    with pytest.raises(DataError, match="rows are a list"):
        scorer([1, 2])


@pytest.mark.parametrize(("tables", "most"), [("fp16", 1e-3), ("int8", 2e-2)])
def test_smaller_tables_move_scores_a_little(
    run: Path, scorer: BatchScorer, test_rows: pl.DataFrame, tables: Any, most: float
) -> None:
    small = BatchScorer(run, tables=tables)
    scores, exact = small(test_rows), scorer(test_rows)
    assert_frame_equal(scores, exact, rel_tol=0, abs_tol=most)
    assert not scores.equals(exact)
    assert pickle.loads(pickle.dumps(small))(test_rows).equals(scores)


def test_passes_of_few_rows_give_the_same_scores(
    run: Path, scorer: BatchScorer, test_rows: pl.DataFrame
) -> None:
    small = BatchScorer(run, pass_rows=7)
    assert_frame_equal(small(test_rows), scorer(test_rows), rel_tol=0, abs_tol=1e-6)
    for sent, rows in ((small, 7), (scorer, 4096)):
        assert pickle.loads(pickle.dumps(sent)).scoring_net.rows == rows


@pytest.mark.parametrize("rows", [0, -1, True, 1.5, "64"])
def test_rows_of_a_pass_are_counted(run: Path, rows: Any) -> None:
    with pytest.raises(SpecError, match="pass_rows: must be a positive integer, got"):
        BatchScorer(run, pass_rows=rows)


def test_unknown_tables_are_refused(run: Path) -> None:
    with pytest.raises(SpecError, match="must be one of `fp32`, `fp16`, `int8`, got 'int4'"):
        BatchScorer(run, tables="int4")  # type: ignore[arg-type]  # that is the point


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run folder"):
        BatchScorer(tmp_path)
