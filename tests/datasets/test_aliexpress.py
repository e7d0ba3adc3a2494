from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl import load_spec
from recmtl.data import open_splits
from tests.datasets.raw import load, write_lines

ALIEXPRESS = load("aliexpress")
ITEM_CATEGORIES = (19, 34, 35, 36, 40, 41, 42)
USER_CATEGORIES = (*range(2, 9), 32, 33)


def value(draw: np.random.Generator, *, category: bool) -> str:
    """A category (some with a fraction, some empty) or a number in one of its notations."""
    if category:
        return str(draw.choice(["0", "1", "2.0", "", "31"]))
    return str(draw.choice(["0.25", "-1e-3", "1", "", f"{draw.random():.6f}"]))


def user_lines(seed: int, searches: int = 60) -> Iterator[str]:
    """One user a search; search 3 is given twice, the same and then otherwise."""
    draw = np.random.default_rng(seed)
    lines = [
        [f"s{search}", *(value(draw, category=i in USER_CATEGORIES) for i in range(2, 34))]
        for search in range(searches)
    ]
    other = [*lines[3][:-1], "77"]
    for line in [*lines, lines[3], other]:
        yield ",".join(line)


def item_lines(seed: int, rows: int = 400, searches: int = 61) -> Iterator[str]:
    """Impressions, unsorted; the last search has no user."""
    draw = np.random.default_rng(seed + 100)
    for _ in range(rows):
        label = draw.choice(3, p=[0.5, 0.3, 0.2])
        values = (value(draw, category=i in ITEM_CATEGORIES) for i in range(2, 49))
        yield ",".join([f"s{draw.integers(searches)}", *values, str(label)])


def write_raw(folder: Path, how: str) -> Path:
    files = {
        f"nl_{side}_{part}": list(make(seed))
        for seed, part in enumerate(("train", "test"))
        for side, make in (("item", item_lines), ("user", user_lines))
    }
    if how != "nested":
        for name, lines in files.items():
            write_lines(folder / f"{name}.csv", lines, how)
        return folder
    folder.mkdir()
    with zipfile.ZipFile(folder / "aliexpress_NL_datasets.zip", "w") as outer:
        for name, lines in files.items():
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{name}.csv", "\n".join(lines))
            outer.writestr(f"aliexpress_NL_datasets/{name}.zip", inner.getvalue())
    return folder


def expected(seed: int) -> list[dict[str, Any]]:
    """The join by loops over `csv` alone."""
    users: dict[str, list[str]] = {}
    for user in csv.reader(user_lines(seed)):
        users.setdefault(user[0], user)
    rows = []
    for item in csv.reader(item_lines(seed)):
        if item[0] not in users:
            continue
        user = users[item[0]]
        categories = [user[i - 1] for i in USER_CATEGORIES] + [item[i - 1] for i in ITEM_CATEGORIES]
        numbers = user[8:31] + [item[i - 1] for i in range(2, 49) if i not in ITEM_CATEGORIES]
        row: dict[str, Any] = {"search_id": item[0]}
        row |= {
            f"categorical_{i}": int(float(v)) if v else None for i, v in enumerate(categories, 1)
        }
        row |= {f"numerical_{i}": float(v) if v else None for i, v in enumerate(numbers, 1)}
        rows.append(row | {"click": int(item[48] != "0"), "conversion": int(item[48] == "2")})
    return rows


@pytest.mark.parametrize("how", ["gz", "nested"])
def test_rows_are_those_of_a_plain_reading(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        ALIEXPRESS.main([str(write_raw(tmp_path / "raw", how)), str(out), "--country", "NL"]) == 0
    )
    said = capsys.readouterr().out
    for seed, part in enumerate(("train", "test")):
        rows = expected(seed)
        frame = pl.read_parquet(out / f"{part}.parquet")
        assert frame.to_dicts() == rows
        assert len(frame.columns) == 1 + 16 + 63 + 2
        assert 0 < len(rows) < 400
        clicks, conversions = (sum(row[k] for row in rows) for k in ("click", "conversion"))
        assert (
            f"{part}.parquet: {len(rows)} rows (click {clicks}, conversion {conversions})" in said
        )
        assert f"{400 - len(rows)} rows of nl_item_{part}" in said
    assert said.count("2 lines of nl_user_") == 2
    assert "2 of them with other values than the first (which stays)" in said


def test_lines_that_do_not_fit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = write_raw(tmp_path / "raw", "plain"), tmp_path / "out"
    good = list(item_lines(1))
    fields = good[0].split(",")
    bad = [fields[:-1], [*fields[:-1], "3"], [*fields[:18], "x", *fields[19:]], ["", *fields[1:]]]
    write_lines(raw / "nl_item_test.csv", [*good, *map(",".join, bad)])
    assert ALIEXPRESS.main([str(raw), str(out)]) == 3
    message = capsys.readouterr().err
    assert "nl_item_test.csv:401: 48 columns, expected 49." in message
    assert "nl_item_test.csv:402: the label is `3`, expected 0, 1 or 2." in message
    assert "nl_item_test.csv:403: `item_19` is `x`, expected an integer." in message
    assert "nl_item_test.csv:404: `search_id` is ``, expected a value." in message
    assert ALIEXPRESS.main([str(raw), str(out), "--country", "US"]) == 3
    assert "no `us_item_train.csv`" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_the_spec_trains(tmp_path: Path, trained: Callable[..., dict[str, Any]]) -> None:
    out = tmp_path / "out"
    ALIEXPRESS.prepare(write_raw(tmp_path / "raw", "plain"), out)
    splits = open_splits(load_spec(ALIEXPRESS.spec).data, out)
    assert splits.valid is not None
    searches = [set(log.read(["search_id"], 0, log.num_rows)["search_id"]) for log in splits]
    assert not searches[0] & searches[1]
    result = trained(ALIEXPRESS.spec, out, "tower={kind: shared_bottom, expert_widths: [8]}")
    test = pl.read_parquet(out / "test.parquet")
    assert {name: metrics["n"] for name, metrics in result["tasks"].items()} == {
        "ctr": test.height,
        "cvr": test["click"].sum(),
        "ctcvr": test.height,
    }
    assert result["tasks"]["cvr"]["positives"] == test["conversion"].sum()


def test_the_spec_uses_every_column_but_the_search() -> None:
    names = [feature.name for feature in load_spec(ALIEXPRESS.spec).features]
    assert names == list(ALIEXPRESS.NAMES.values())
