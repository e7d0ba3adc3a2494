"""Validation rows: where they are looked for, and which of them are taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl.analysis import analyse
from recmtl.analysis.rows import NoRowsError, read_sample, spread_rows, validation_log
from recmtl.data import EncodeCounts
from recmtl.errors import DataError
from recmtl.run import Run
from tests.runs import copied, interrupt


@given(total=st.integers(1, 400), most=st.integers(1, 400), stretches=st.integers(1, 50))
def test_rows_are_spread_over_the_log(total: int, most: int, stretches: int) -> None:
    found = spread_rows(total, most, stretches=stretches)
    assert len(found) == min(total, most)
    assert (np.diff(found) > 0).all()
    assert found[0] == 0
    assert found[-1] < total
    if total > most:
        pieces = -(-most // -(-most // stretches))
        assert (np.diff(found) > 1).sum() < pieces <= stretches
        largest = max(np.diff(found).max(initial=1), total - found[-1])
        assert largest <= -(-(total - most) // pieces) + 1


def test_a_sample_is_those_rows_encoded(run: Path, funnel: Path) -> None:
    opened, counts = Run(run), EncodeCounts()
    valid = validation_log(opened)
    batch = read_sample(valid, opened.encoders, 100, counts=counts)
    rows = pl.read_parquet(funnel / "valid.parquet")[spread_rows(valid.num_rows, 100)]
    expected = opened.encoders.encode(rows, labels=True)
    assert torch.equal(batch.ids_FB, expected.ids_FB)
    assert torch.equal(batch.labels_BK, expected.labels_BK)
    assert torch.equal(batch.sequences["history"].values_N, expected.sequences["history"].values_N)
    assert batch.rows_B.tolist() == spread_rows(valid.num_rows, 100).tolist()
    assert counts.features["user_id"].values == 100


def test_a_sample_read_in_pieces_is_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Run(run)
    valid = validation_log(opened)
    whole = read_sample(valid, opened.encoders, 200)
    monkeypatch.setattr(type(opened.encoders), "piece_rows", 37)
    pieces = read_sample(valid, opened.encoders, 200)
    assert torch.equal(whole.dense_DB, pieces.dense_DB)
    assert torch.equal(whole.rows_B, pieces.rows_B)
    for name, column in whole.sequences.items():
        assert torch.equal(column.lengths_B, pieces.sequences[name].lengths_B)
        assert torch.equal(column.values_N, pieces.sequences[name].values_N)


def test_the_budget_bounds_a_sample(run: Path) -> None:
    opened = Run(run)
    encoders = opened.encoders
    section = encoders.spec.data.model_copy(update={"memory": "512KiB"})
    encoders.spec = encoders.spec.model_copy(update={"data": section})
    found = read_sample(validation_log(opened), encoders, 20_000)
    assert 64 <= len(found) < 600
    assert 2 * encoders.row_bytes * len(found) <= section.memory_bytes / 8


def test_a_run_knows_where_its_data_was(run: Path, funnel: Path, tmp_path: Path) -> None:
    assert Run(run).data_dir == funnel
    copy = copied(run, tmp_path)
    interrupt(copy)
    with Run(copy).training(tmp_path / "moved"):
        pass
    assert Run(copy).data_dir == tmp_path / "moved"
    with Run(copy).training():  # not known: it is where it was
        pass
    assert Run(copy).data_dir == tmp_path / "moved"


def test_data_that_went_away_or_changed_is_said(run: Path, funnel: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    interrupt(copy)
    opened = Run(copy)
    with opened.training(tmp_path / "data"):
        pass
    with pytest.raises(NoRowsError, match=r"not in `.*data` as they were.*pass the folder"):
        validation_log(opened)
    with pytest.raises(DataError, match=r"train\.parquet"):
        validation_log(opened, tmp_path / "elsewhere")
    shutil.copytree(funnel, tmp_path / "data")
    assert validation_log(opened).num_rows == validation_log(opened, funnel).num_rows
    other = pl.read_parquet(funnel / "valid.parquet").reverse()
    other.write_parquet(tmp_path / "data/valid.parquet")
    with pytest.raises(NoRowsError, match="holds other rows than those"):
        validation_log(opened)
    with pytest.raises(DataError, match="holds other rows than those") as caught:
        validation_log(opened, tmp_path / "data")
    assert not isinstance(caught.value, NoRowsError)


def test_a_folder_for_rows_that_never_were_is_refused(plain_run: Path, tmp_path: Path) -> None:
    opened = Run(plain_run)
    with pytest.raises(NoRowsError):
        validation_log(opened)
    with pytest.raises(DataError, match=r"was trained without any .* Leave it out") as caught:
        validation_log(opened, tmp_path)
    assert not isinstance(caught.value, NoRowsError)


def test_what_cannot_be_analysed_is_said(run: Path, plain_run: Path, tmp_path: Path) -> None:
    assert analyse(plain_run).missing == "The spec names no validation rows."
    copy = copied(run, tmp_path)
    interrupt(copy)
    assert analyse(copy) == (None, None, "The run is not finished.")
