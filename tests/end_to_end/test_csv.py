"""A log as CSV and as Parquet: one run, the same metrics, the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from recmtl import api
from recmtl.cli.app import main
from recmtl.errors import DataError

SMALL = [
    "tower.num_experts=2",
    "tower.expert_widths=[8]",
    "tower.head_widths=[4]",
    "train.batch_size=512",
    "train.epochs=1",
    "data.segments=[device, hour]",
]


@pytest.fixture(scope="module")
def folder(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The funnel without its lists, in both formats; training rows in two CSV files."""
    folder = tmp_path_factory.mktemp("csv")
    lines = (funnel / "spec.yaml").read_text().splitlines()
    lines = [line.replace(".parquet", ".csv") for line in lines if "history" not in line]
    (folder / "spec.yaml").write_text("\n".join(lines).replace("train.csv", "train"))
    for name in ("train", "valid", "test"):
        rows = pl.read_parquet(funnel / f"{name}.parquet").drop("history")
        rows.write_parquet(folder / f"{name}.parquet")
        rows.write_csv(folder / f"{name}.csv", line_terminator="\r\n", quote_style="non_numeric")
    rows = pl.read_csv(folder / "train.csv")
    (folder / "train").mkdir()
    rows[:100].write_csv(folder / "train" / "a.csv", include_bom=True)
    rows[100:].select(reversed(rows.columns)).write_csv(folder / "train" / "b.csv")
    return folder


@pytest.fixture(scope="module")
def csv_run(folder: Path) -> Path:
    api.train(folder / "spec.yaml", out=folder / "run", overrides=SMALL)
    return folder / "run"


def test_the_doctor_reads_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for overrides in ([], ["data.train=train.parquet", "data.valid=valid.parquet"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["doctor", str(folder / "spec.yaml"), "--json", *overrides])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


def test_metrics_and_scores_equal_those_of_parquet(csv_run: Path, folder: Path) -> None:
    by_csv, by_parquet = (api.evaluate(csv_run, folder / f"test.{k}") for k in ("csv", "parquet"))
    assert by_csv == by_parquet
    assert len(by_csv["segments"]["hour"]) > 20
    scores = []
    for kind in ("csv", "parquet"):
        out = folder / f"scores-{kind}"
        api.score(csv_run, folder / f"test.{kind}", out, keep=["brand", "device", "price"])
        manifest = json.loads((out / "manifest.json").read_text())
        scores.append((pl.read_parquet(out / "*.parquet"), manifest["features"]))
    assert scores[0][0].equals(scores[1][0])
    assert scores[0][1] == scores[1][1]


def test_ids_stay_what_they_were(csv_run: Path, folder: Path, tmp_path: Path) -> None:
    rows = pl.read_csv(folder / "test.csv", n_rows=3).cast({"brand": pl.String})
    rows.with_columns(brand=pl.Series(["12", "b7", ""])).write_csv(tmp_path / "x.csv")
    with pytest.raises(DataError, match="brand") as caught:
        api.score(csv_run, tmp_path / "x.csv", tmp_path / "out")
    assert str(caught.value) == (
        f"{tmp_path}/x.csv:3: column `brand` (feature `brand`) is `b7`, expected an integer, as the"
        " table was fitted on, or nothing for a null."
    )
    assert not (tmp_path / "out").exists()


def test_a_run_with_lists_asks_for_parquet(run: Path, folder: Path) -> None:
    rows = pl.read_csv(folder / "test.csv", n_rows=3)
    rows.with_columns(history=pl.lit("[1, 2]")).write_csv(folder / "lists.csv")
    with pytest.raises(DataError, match=r"lists\.csv: column `history` \(feature `history`\) is "):
        api.evaluate(run, folder / "lists.csv")
