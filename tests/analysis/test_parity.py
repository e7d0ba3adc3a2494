"""Causes planted in a server's log are named; what is planted is made without the code that finds.

A server that reads a column in another way is played by the run itself on changed columns: null
ids, strings whose hash falls upon an integer's row, prices whose logarithm is the price.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import recmtl
from recmtl import api
from recmtl.cli.parity import command
from recmtl.data.hashing import xxh3_64
from recmtl.errors import DataError, SpecError
from recmtl.scoring import BatchScorer
from tests.data import plain_encoding as plain

ROWS, BUCKETS = 900, 40
SPEC = """name: served
data: {train: train.parquet, accept_leaks: [item, user, brand, age, price, ts, seen]}
features:
  - {name: user, type: sparse, hash: 40, dim: 4}
  - {name: item, type: sparse, vocab: {}, dim: 4}
  - {name: brand, type: sparse, vocab: {}, dim: 4}
  - {name: age, type: sparse, buckets: [25, 35, 45], dim: 4}
  - {name: price, type: dense, transform: log1p}
  - {name: ts, type: dense}
  - {name: seen, type: sequence, table: item, max_len: 4}
tasks:
  - {name: click, label: click}
  - {name: spend, label: spend, kind: regression}
tower: {kind: shared_bottom, expert_widths: [16], head_widths: []}
train: {batch_size: 64, epochs: 2, lr: 0.02, embedding: {lr: 0.3}}
"""


def make_rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    item, user = rng.integers(1, 13, ROWS), rng.integers(0, 200, ROWS)
    price = rng.gamma(2.0, 2.0, ROWS)
    age = rng.integers(18, 60, ROWS)
    seen = [rng.integers(1, 13, rng.integers(0, 9)).tolist() for _ in range(ROWS)]
    brand = rng.choice(["acme", "Zeta", "unknown", "nord"], ROWS)
    score = 0.4 * (item % 4) + 0.2 * (user % 5) + (brand == "Zeta") + 0.3 * np.log1p(price) - 2.5
    return pl.DataFrame(
        {
            "user": user,
            "item": item,
            "brand": brand,
            "age": age,
            "price": price,
            "ts": 1.7e9 + rng.normal(0, 40, ROWS),
            "seen": seen,
            "click": (rng.random(ROWS) < 1 / (1 + np.exp(-score))).astype(np.int8),
            "spend": score + age / 20,
        }
    )


@pytest.fixture(scope="module")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    make_rows().write_parquet(folder / "train.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    api.train(folder / "spec.yaml", out=folder / "run")
    return folder / "run"


def log_of(run: Path, read: pl.DataFrame, where: pl.Expr | None = None) -> pl.DataFrame:
    """The log of a server that read the rows `where` as `read` and all others as they are."""
    rows = make_rows()
    scorer = BatchScorer(run, keep=())
    truth, other = scorer(rows), scorer(read)
    chosen = np.ones(ROWS, bool) if where is None else rows.select(where).to_series().to_numpy()
    scores = {
        name: np.where(chosen, other[name].to_numpy(), truth[name].to_numpy())
        for name in truth.columns
    }
    return rows.drop("click", "spend").with_columns(**scores)


def as_hashed_strings(users: pl.Series) -> list[int]:
    """Integers that fall into the buckets that the digits of the users fall into as strings."""
    rows = [1 + int(code) % BUCKETS for code in xxh3_64(users.cast(pl.String))]
    known = {}
    for number in range(10_000):
        known.setdefault(1 + plain.splitmix64(number) % BUCKETS, number)
    return [known[row] for row in rows]


def as_the_row_before(users: pl.Series) -> list[int | None]:
    """What falls into the row before that of each user: of the first row, a null."""
    before = {1 + plain.splitmix64(number) % BUCKETS: number for number in range(10_000)}
    return [before.get(plain.splitmix64(int(user)) % BUCKETS) for user in users]


def changed(**columns: Any) -> pl.DataFrame:
    return make_rows().with_columns(**columns)


RARE = pl.col("item").is_in([3, 4, 5])
SOME = pl.col("age") % 3 == 0
PLANTED: dict[str, tuple[Callable[[], pl.DataFrame], pl.Expr | None, str, str, str]] = {
    "unknown ids": (
        lambda: changed(item=pl.lit(10**6)),
        RARE,
        "item",
        "vocabulary",
        "was out-of-vocabulary",
    ),
    "ids as strings, of a vocabulary": (
        lambda: changed(item=pl.lit(10**6)),
        None,
        "item",
        "type",
        "was read as strings",
    ),
    "ids as strings, hashed": (
        lambda: changed(user=pl.Series(as_hashed_strings(make_rows()["user"]))),
        None,
        "user",
        "type",
        "was read as strings",
    ),
    "a hash without the row of nulls": (
        lambda: changed(user=pl.Series(as_the_row_before(make_rows()["user"]), dtype=pl.Int64)),
        None,
        "user",
        "vocabulary",
        "had the table row before its own",
    ),
    "lower case": (
        lambda: changed(brand=pl.col("brand").str.to_lowercase()),
        None,
        "brand",
        "type",
        "was read in lower case",
    ),
    "float32": (
        lambda: changed(ts=pl.col("ts").cast(pl.Float32)),
        None,
        "ts",
        "type",
        "was read as float32",
    ),
    "null in place of a number in buckets": (
        lambda: changed(age=pl.lit(None, pl.Int64)),
        SOME,
        "age",
        "default",
        "was null",
    ),
    "a default that is a value": (
        lambda: changed(brand=pl.lit("unknown")),
        SOME,
        "brand",
        "default",
        "was 'unknown'",
    ),
    "null in place of a dense feature": (
        lambda: changed(price=pl.lit(None, pl.Float64)),
        SOME,
        "price",
        "default",
        "was null (filled with 0)",
    ),
    "no logarithm": (
        lambda: changed(price=pl.col("price").exp() - 1),
        None,
        "price",
        "transform",
        "was not transformed (log1p)",
    ),
    "the wrong end of a list": (
        lambda: changed(seen=pl.col("seen").list.head(4)),
        None,
        "seen",
        "list",
        "was cut to the first items",
    ),
    "a shorter list": (
        lambda: changed(seen=pl.col("seen").list.tail(2)),
        None,
        "seen",
        "list",
        "was cut to its last 2",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_cause_is_named(served_run: Path, name: str) -> None:
    read, where, feature, cause, words = PLANTED[name]
    found = recmtl.parity(served_run, log_of(served_run, read(), where))
    assert found["rows"] == ROWS
    assert found["differ"] > 50
    assert found["unexplained"] == 0
    assert found["explained"] == found["differ"] == sum(c["rows"] for c in found["causes"])
    first = found["causes"][0]
    (told,) = first["features"]
    assert (told["feature"], told["cause"]) == (feature, cause)
    assert told["words"].startswith(words)
    # A row or two may agree with another reading too; by far the most must not.
    assert first["rows"] >= 0.97 * found["differ"]
    rows = make_rows()
    for example in first["examples"]:
        assert example["values"] == {feature: rows[feature].to_list()[example["row"]]}
        if where is not None:
            assert rows[example["row"]].select(where).item()


def test_two_features_at_once(served_run: Path) -> None:
    """Prices are not transformed anywhere, and some ids are unknown besides."""
    prices = {"price": pl.col("price").exp() - 1}
    both = changed(**prices, item=pl.when(RARE).then(10**6).otherwise(pl.col("item")))
    found = recmtl.parity(served_run, log_of(served_run, both))
    assert found["unexplained"] <= 0.01 * found["differ"]
    single, pair = found["causes"][:2]
    assert [told["cause"] for told in single["features"]] == ["transform"]
    assert {(told["feature"], told["cause"]) for told in pair["features"]} == {
        ("price", "transform"),
        ("item", "vocabulary"),
    }
    rare = make_rows().select(RARE.sum()).item()
    assert pair["rows"] == pytest.approx(rare, abs=0.03 * rare)
    assert all(make_rows()["item"][example["row"]] in (3, 4, 5) for example in pair["examples"])


def test_what_nothing_explains_is_said_to_be_so(served_run: Path) -> None:
    log = log_of(served_run, make_rows())
    moved = np.array(log["probs_click"])
    moved[[7, 400, 899]] *= 1.317
    found = recmtl.parity(served_run, log.with_columns(probs_click=pl.Series(moved)))
    assert (found["differ"], found["unexplained"], found["causes"]) == (3, 3, [])
    assert found["unexplained_examples"] == [7, 400, 899]
    assert found["tasks"]["click"]["differ"] == 3
    assert found["tasks"]["spend"]["differ"] == 0
    assert found["tasks"]["click"]["largest"] == pytest.approx(
        float(np.abs(moved - np.array(log["probs_click"])).max()), rel=1e-3
    )


def test_ids_logged_as_strings_are_read_as_integers(served_run: Path) -> None:
    log = log_of(served_run, make_rows()).with_columns(pl.col("item", "user").cast(pl.String))
    found = recmtl.parity(served_run, log)
    assert (found["differ"], len(found["types"])) == (0, 2)
    assert "column `user` is String in the log, but the run was fitted on integers" in "".join(
        found["types"]
    )


def test_a_tolerance_allows_what_it_says(served_run: Path) -> None:
    log = log_of(served_run, make_rows())
    log = log.with_columns(probs_click=pl.col("probs_click") * 1.001)
    assert recmtl.parity(served_run, log, tolerance=2e-3)["differ"] == 0
    assert recmtl.parity(served_run, log, tolerance=5e-4)["tasks"]["click"]["differ"] == ROWS


def test_rows_without_a_score_are_not_compared(served_run: Path) -> None:
    log = log_of(served_run, make_rows()).drop("pred_spend")
    log = log.with_columns(pl.when(SOME).then("probs_click").alias("served_click"))
    found = recmtl.parity(served_run, log, scores_prefix="served_")
    assert found["not_logged"] == ["spend"]
    assert found["differ"] == 0
    assert found["tasks"]["click"]["rows"] == log["served_click"].count() < ROWS


def test_the_rows_are_written_with_their_causes(served_run: Path, tmp_path: Path) -> None:
    """Some ids are unknown, some ages null, and a score is another one for no reason."""
    read = changed(
        item=pl.when(RARE & ~SOME).then(10**6).otherwise(pl.col("item")),
        age=pl.when(SOME).then(None).otherwise(pl.col("age")),
    )
    log = log_of(served_run, read)
    odd = int(np.flatnonzero(make_rows().select(~RARE & ~SOME).to_series().to_numpy())[5])
    moved = np.array(log["probs_click"])
    moved[odd] += 0.1
    out = tmp_path / "differ.parquet"
    found = recmtl.parity(served_run, log.with_columns(probs_click=pl.Series(moved)), out=out)
    causes = [cause["features"][0]["feature"] for cause in found["causes"]]
    assert sorted(causes) == ["age", "item"]
    rows = pl.read_parquet(out)
    assert rows["row"].is_sorted()
    assert rows.height == found["differ"]
    assert rows.filter(pl.col("cause").is_null())["row"].to_list() == [odd]
    for place, (feature, cause) in enumerate(zip(causes, found["causes"], strict=True)):
        numbers = rows.filter(cause=place)["row"].to_numpy()
        assert len(numbers) == cause["rows"]
        planted = make_rows().select(SOME if feature == "age" else RARE & ~SOME).to_series()
        assert planted.to_numpy()[numbers].all()


def test_classes_are_compared_too(kinds_run: Path) -> None:
    rows = pl.read_parquet(kinds_run.parent / "train.parquet").head(300)
    scorer = BatchScorer(kinds_run, keep=())
    truth, other = scorer(rows), scorer(rows.with_columns(item=pl.lit(10**6)))
    log = rows.with_columns(truth["probs_stars"])
    found = recmtl.parity(kinds_run, log)
    assert (found["differ"], found["not_logged"]) == (0, ["number", "never"])
    few = pl.int_range(pl.len()) % 4 == 0
    scores = truth.select(few=few, there=truth["probs_stars"], other=other["probs_stars"])
    served = scores.select(pl.when("few").then("other").otherwise("there").alias("probs_stars"))
    found = recmtl.parity(kinds_run, log.with_columns(served))
    assert found["differ"] == 75
    assert found["causes"][0]["features"][0]["feature"] == "item"
    assert found["causes"][0]["features"][0]["cause"] == "vocabulary"
    assert found["unexplained"] == 0
    nothing = pl.when(few).then(None).otherwise("probs_stars").alias("probs_stars")
    found = recmtl.parity(kinds_run, log.with_columns(nothing))
    assert (found["differ"], found["tasks"]["stars"]["rows"]) == (0, 225)
    short = log.with_columns(pl.col("probs_stars").arr.to_list().list.head(2))
    with pytest.raises(DataError, match=r"`probs_stars` has lists of 2 numbers, but `stars` has 3"):
        recmtl.parity(kinds_run, short)


def test_the_command_ends_with_5_where_rows_differ(served_run: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    log_of(served_run, make_rows()).write_parquet(good)
    log_of(served_run, changed(item=pl.lit(10**6)), RARE).write_parquet(bad, row_group_size=100)
    done = CliRunner().invoke(command, [str(served_run), "--log", str(good)])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"{ROWS} rows, 0 differ")
    done = CliRunner().invoke(command, [str(served_run), "--log", str(bad)])
    assert done.exit_code == 5
    assert "rows: `item` was out-of-vocabulary (row 0, as a null is) (vocabulary)" in done.stdout
    done = CliRunner().invoke(command, [str(served_run), "--log", str(bad), "--json"])
    assert done.exit_code == 5
    assert json.loads(done.stdout)["causes"][0]["features"][0]["feature"] == "item"


def test_errors_say_what_to_do(served_run: Path) -> None:
    log = log_of(served_run, make_rows())
    with pytest.raises(
        DataError, match=r"^log: no column holds served scores; expected .*`s_spend`"
    ):
        recmtl.parity(served_run, log, scores_prefix="s_")
    with pytest.raises(DataError, match=r"^log: column `price` \(feature\) is missing"):
        recmtl.parity(served_run, log.drop("price"))
    with pytest.raises(DataError, match=r"`probs_click` \(served score of `click`\) is String"):
        recmtl.parity(served_run, log.with_columns(pl.col("probs_click").cast(pl.String)))
    with pytest.raises(SpecError, match=r"^tolerance: must be at least 0 and below 1"):
        recmtl.parity(served_run, log, tolerance=2.0)
