"""The doctor as a whole: it ends as training would, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recmtl import api
from recmtl.config import load_spec
from recmtl.data import open_splits
from recmtl.doctor import examine, exit_code, require_healthy
from recmtl.doctor.findings import by_severity
from recmtl.errors import DataError, RecMTLError, SpecError
from tests.doctor.conftest import SPEC, Shop, shop_log

Change = Callable[[pl.DataFrame], pl.DataFrame]


def test_the_funnel_is_healthy(funnel: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in funnel.rglob("*")}
    found = examine(funnel / "spec.yaml")
    assert exit_code(found) == 0
    assert {file: file.stat().st_mtime_ns for file in funnel.rglob("*")} == before
    assert {f.where for f in found} >= {"task `ctr`", "task `cvr`", "memory", "versions"}
    assert all(f.advice for f in found if f.severity == "warning")


def test_files_without_rows_are_counted(shop: Shop) -> None:
    spec = shop()
    (spec.parent / "log").mkdir()
    (spec.parent / "train.parquet").rename(spec.parent / "log" / "a.parquet")
    shop_log()[:0].write_parquet(spec.parent / "log" / "b.parquet")
    found = examine(spec, overrides=["data.train=log"])
    assert exit_code(found) == 0
    assert "training rows: 1 of 2 files have none." in map(str, found)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda f: f.with_columns(price=pl.col("click") * 1.0), ("`price`", "`ctr`")),
        (lambda f: f.with_columns(price=3.0 - pl.col("buy")), ("`price`", "`cvr`")),
        (
            lambda f: f.with_columns(buy=pl.lit(1)),
            ("`buy`", "although `click` is 0", "`cvr`"),
        ),
    ],
)
def test_doctor_and_train_refuse_what_gives_labels_away_pitfall_T22(
    change: Change, fragments: tuple[str, ...], shop: Shop, tmp_path: Path
) -> None:
    spec = shop(train=change(shop_log()))
    errors = [f for f in examine(spec) if f.severity == "error"]
    assert exit_code(errors) == 3
    text = "\n".join(map(str, errors))
    assert all(fragment in text for fragment in fragments)
    with pytest.raises(DataError, match=fragments[0]):
        api.train(spec, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


WRONG: dict[str, tuple[Change, dict[str, str], int]] = {
    "spec": (lambda f: f, {"dim: 4}": "dims: 4}"}, 2),
    "kernel": (lambda f: f, {"batch_size: 64": "batch_size: 64, embedding: {optimizer: adam}"}, 2),
    "spec and data": (lambda f: f.drop("price"), {"dim: 4}": "dims: 4}"}, 2),
    "file": (lambda f: f, {"train.parquet": "absent.parquet"}, 3),
    "column": (lambda f: f.drop("price"), {}, 3),
    "label": (lambda f: f.with_columns(click=pl.lit(2)), {}, 3),
    "null products": (
        lambda f: f.with_columns(buy=pl.when(pl.col("click") == 1).then("buy")),
        {"tower:": "objective: entire_space\ntower:"},
        3,
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_doctor_ends_as_training_does(kind: str, shop: Shop, tmp_path: Path) -> None:
    change, edits, code = WRONG[kind]
    text = SPEC
    for right, wrong in edits.items():
        text = text.replace(right, wrong, 1)
    spec = shop(train=change(shop_log()), spec=text)
    found = examine(spec)
    assert exit_code(found) == code, found
    assert found == by_severity(found)
    with pytest.raises(RecMTLError, match=r".") as caught:
        api.train(spec, out=tmp_path / "run")
    assert caught.value.exit_code == code


def test_a_leak_comes_before_tables_that_are_too_large(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.doctor.machine.machine_memory", lambda: 1)
    spec = shop(train=shop_log().with_columns(price=pl.col("click") * 1.0))
    found = [f for f in examine(spec) if f.severity == "error"]
    assert [f.exit_code for f in found] == [3, 2]
    assert exit_code(examine(shop())) == 2


@pytest.mark.parametrize("part", ["tower=dtrn", "sequence=din"])
def test_what_the_features_cannot_feed_is_found(part: str, shop: Shop, tmp_path: Path) -> None:
    spec = shop(spec="\n".join(line for line in SPEC.splitlines() if "sequence" not in line))
    (error,) = (f for f in examine(spec, overrides=[part]) if f.severity == "error")
    assert exit_code([error]) == 2
    key, _, kind = part.partition("=")
    expected = f"{key}: `{kind}` needs a behaviour sequence. Add a feature of `type: sequence`"
    assert expected in str(error)
    with pytest.raises(SpecError, match=f"{key}: `{kind}` needs a behaviour sequence"):
        api.train(spec, out=tmp_path / "run", overrides=[part])


def test_wrong_validation_rows_are_found(shop: Shop) -> None:
    bad = shop_log(500, seed=1).with_columns(click=pl.lit(3))
    (error,) = [f for f in examine(shop(valid=bad)) if f.severity == "error"]
    assert "valid.parquet" in error.where
    (error,) = [f for f in examine(shop(valid=bad.drop("price"))) if f.severity == "error"]
    assert "valid.parquet" in error.where


def test_no_validation_rows_are_a_warning(shop: Shop) -> None:
    found = examine(shop(), overrides=["data.valid=null", "train.monitor=null"])
    assert any(f.severity == "warning" and f.where == "validation rows" for f in found)
    assert exit_code(found) == 0


def test_data_may_lie_elsewhere(shop: Shop, tmp_path: Path) -> None:
    spec = shop()
    (tmp_path / "specs").mkdir()
    moved = spec.rename(tmp_path / "specs/shop.yaml")
    assert exit_code(examine(moved)) == 3
    assert exit_code(examine(moved, data=tmp_path)) == 0


def test_training_is_told_what_is_no_error(shop: Shop, tmp_path: Path) -> None:
    spec = load_spec(shop(spec=SPEC.replace("group_by", "accept_leaks: [price], group_by")))
    shop_log().with_columns(price=pl.col("click") * 1.0).write_parquet(tmp_path / "train.parquet")
    (found,) = require_healthy(spec, open_splits(spec.data, tmp_path))
    assert found.severity == "info"
