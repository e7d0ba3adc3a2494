"""`recmtl eval`: what it says about labels that contradict a condition."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from click.testing import CliRunner

from recmtl.cli.eval import command, table


def test_contradictions_are_shown_and_left_out(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    not_clicked = pl.col("click") == 0
    bought = pl.when(not_clicked & (not_clicked.cum_sum() <= 9)).then(1)
    rows.with_columns(
        bought.otherwise("conversion").cast(pl.Int8).alias("conversion")
    ).write_parquet(tmp_path / "raw.parquet")
    clean, raw = (
        CliRunner().invoke(command, [str(run), "--data", str(file), "--json"])
        for file in (funnel / "test.parquet", tmp_path / "raw.parquet")
    )
    assert clean.exit_code == raw.exit_code == 0
    assert "warning" not in clean.stderr
    warning = (
        f"warning: task `cvr`: 9 of {rows.height:,} rows are positive although its condition is 0. "
        "No metric of `cvr` counts them; repair the labels.\n"
    )
    assert warning in raw.stderr
    before, found = json.loads(clean.stdout), json.loads(raw.stdout)
    assert (before["contradictions"], found["contradictions"]) == ({"cvr": 0}, {"cvr": 9})
    assert found["tasks"]["cvr"] == before["tasks"]["cvr"]
    assert found["tasks"]["ctcvr"]["positives"] == before["tasks"]["ctcvr"]["positives"] + 9


def test_large_numbers_stand_apart() -> None:
    head, *lines = table(
        {
            "price": {"n": 12, "rmse": 108438.32831, "mae": -67563.9485},
            "dwell": {"n": 1234567890, "rmse": 0.5, "mae": None},
        }
    )
    assert [line.split() for line in (head, *lines)] == [
        ["task", "n", "rmse", "mae"],
        ["price", "12", "108438.3283", "-67563.9485"],
        ["dwell", "1,234,567,890", "0.5000", "-"],
    ]
    assert len({len(line) for line in (head, *lines)}) == 1
