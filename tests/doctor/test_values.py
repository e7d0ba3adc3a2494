"""Validation values: forbidden ones are named, unknown ones are counted."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recmtl.config import RunConfig, load_spec
from recmtl.data import EncodeCounts, Encoders, open_log
from recmtl.doctor.values import encode_all, unknown_findings
from recmtl.errors import DataError
from tests.doctor.conftest import Shop, shop_log


def test_unknown_ids_are_counted_over_all_pieces(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.doctor.values._PIECE_ROWS", 300)
    unknown = pl.when(pl.int_range(pl.len()) % 10 < 3).then(-1).otherwise("user_id")
    shop_log(1000, seed=1).with_columns(user_id=unknown).write_parquet(tmp_path / "valid.parquet")
    encoders = Encoders.fit(config, tmp_path)
    counts = encode_all(encoders, open_log(tmp_path / "valid.parquet"))
    assert counts.features["user_id"].oov == 300
    (found,) = unknown_findings(counts)
    assert (found.severity, found.where) == ("warning", "feature `user_id`")
    assert found.what.startswith("30.00 % of the validation values")


def test_few_unknown_ids_are_a_note() -> None:
    counts = EncodeCounts()
    counts.count("a", values=100, nulls=0, oov=1)
    counts.count("b", values=100, nulls=50)
    counts.count("c", values=0, nulls=0)
    (found,) = unknown_findings(counts)
    assert (found.severity, found.where, found.advice) == ("info", "feature `a`", "")


def test_forbidden_values_name_the_file(shop: Shop, tmp_path: Path) -> None:
    bad = shop_log(100).with_columns(click=pl.lit(3))
    config = load_spec(shop(valid=bad))
    encoders = Encoders.fit(config, tmp_path)
    with pytest.raises(DataError, match=r"valid\.parquet: column `click`: 100 labels"):
        encode_all(encoders, open_log(tmp_path / "valid.parquet"))
