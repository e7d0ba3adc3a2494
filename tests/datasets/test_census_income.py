from __future__ import annotations

import gzip
import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from recmtl import load_spec
from recmtl.errors import DataError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "datasets" / "census_income" / "prepare.py"
SPEC = ROOT / "feature_specs" / "census_income.yaml"
MODULE = runpy.run_path(str(SCRIPT))
COLUMNS, prepare, main = MODULE["COLUMNS"], MODULE["prepare"], MODULE["main"]
REAL_DATA = os.environ.get("RECMTL_REAL_DATA")

RICH = (
    "38, Private, 6, 36, 1st 2nd 3rd or 4th grade, 0, Not in universe, "
    "Married-civilian spouse present, Manufacturing-durable goods, "
    "Machine operators assmblrs & inspctrs, White, Mexican (Mexicano), Female, Not in universe, "
    "Not in universe, Full-time schedules, 0, 0, 0, Joint one under 65 & one 65+, "
    "Not in universe, Not in universe, Spouse of householder, Spouse of householder, 1032.38, "
    "?, ?, ?, Not in universe under 1 year old, ?, 4, Not in universe, Mexico, Mexico, ?, "
    "Foreign born- Not a citizen of U S , 0, Not in universe, 2, 12, 95, 50000+."
)
POOR = RICH.replace("Married-civilian spouse present", "Never married").replace(
    "50000+.", "- 50000."
)


def write_raw(folder: Path, train: list[str], test: list[str], *, gz: bool = False) -> Path:
    """The two files in the owner's names and layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("census-income.data", train), ("census-income.test", test)):
        data = "".join(line + "\n" for line in lines).encode()
        if gz:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("gz", [False, True])
def test_rows_keep_their_order_and_labels(tmp_path: Path, gz: bool) -> None:
    prepare(write_raw(tmp_path / "raw", [RICH, POOR, RICH], [POOR], gz=gz), tmp_path / "out")
    train = pl.read_parquet(tmp_path / "out" / "train.parquet")
    assert train["income"].to_list() == [1, 0, 1]
    assert train["never_married"].to_list() == [0, 1, 0]
    assert train["row"].to_list() == [0, 1, 2]
    assert pl.read_parquet(tmp_path / "out" / "test.parquet")["income"].to_list() == [0]


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = write_raw(tmp_path / "raw", [RICH], [POOR]), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))  # what a quota does
        assert main([str(raw), str(out)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{out / 'train.parquet'}: the disk is full" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    assert main([str(raw), str(out)]) == 0


def test_values_are_stripped_typed_and_named(tmp_path: Path) -> None:
    prepare(write_raw(tmp_path / "raw", [RICH], [POOR]), tmp_path / "out")
    (row,) = pl.read_parquet(tmp_path / "out" / "train.parquet").to_dicts()
    assert list(row) == ["row", *COLUMNS, "never_married"]
    expected = dict(zip(COLUMNS, (value.strip() for value in RICH.split(",")), strict=True))
    for name, is_integer in COLUMNS.items():
        if name == "income":
            continue
        if expected[name] == "?":
            assert row[name] is None, name
        elif is_integer:
            assert row[name] == int(expected[name]), name
        elif name == "instance_weight":
            assert row[name] == pytest.approx(1032.38)
        else:
            assert row[name] == expected[name], name


def test_what_was_dropped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_raw(tmp_path / "raw", [RICH, "", POOR, "  "], [POOR])
    assert main([str(raw), str(tmp_path / "out")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "train.parquet: 2 rows (income 1, never_married 1); dropped 2 blank lines; 10 " in first
    assert "test.parquet: 1 rows (income 0, never_married 1); dropped 0 blank lines; 5 " in second


def test_lines_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    bad = [
        RICH + ", 1",
        RICH.replace("38, Private", "old, Private"),
        RICH.replace("50000+.", "much"),
        RICH.replace("1032.38", "heavy"),
        POOR.replace("Never married", "?"),
    ]
    raw = write_raw(tmp_path / "raw", [RICH, *bad], [POOR])
    with pytest.raises(DataError, match=r"income\.data:2: 43 columns, expected 42") as caught:
        prepare(raw, tmp_path / "out")
    message = str(caught.value)
    assert "census-income.data:3: `age` is `old`, expected an integer." in message
    assert "census-income.data:4: `income` is `much`, expected `- 50000.` or `50000+.`" in message
    assert "census-income.data:5: `instance_weight` is `heavy`, expected a number." in message
    assert "census-income.data:6: `marital_stat` is `?`" in message
    assert not (tmp_path / "out").exists()


def test_long_lists_of_problems_are_cut(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", ["1, 2"] * 25, [POOR])
    with pytest.raises(DataError, match=r"data:20: 2 columns.*\n.*data: 5 more lines do not fit"):
        prepare(raw, tmp_path / "out")


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_raw(tmp_path / "raw", [RICH], [POOR])
    (raw / "census-income.test").unlink()
    assert main([str(raw), str(tmp_path / "out")]) == 3
    assert "neither `census-income.test` nor `census-income.test.gz`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"census-income\.test: no rows"):
        prepare(write_raw(tmp_path / "raw", [RICH], []), tmp_path / "out")


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [RICH] * 500, [POOR], gz=True)
    whole = (raw / "census-income.data.gz").read_bytes()
    (raw / "census-income.data.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"data\.gz: cannot be read to its end"):
        prepare(raw, tmp_path / "out")


def test_runs_as_a_script(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [RICH], [POOR])
    command = [sys.executable, str(SCRIPT), str(raw), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert (tmp_path / "out" / "test.parquet").exists()


def test_the_spec_uses_no_leak() -> None:
    config = load_spec(SPEC)
    names = {feature.name for feature in config.features}
    leaks = {"marital_stat", "tax_filer_stat", "det_hh_fam_stat", "det_hh_summ"}
    assert names <= set(COLUMNS)
    assert not names & (leaks | {"instance_weight", "income", "never_married", "row"})
    assert names == set(COLUMNS) - leaks - {"instance_weight", "income"}
    assert [task.name for task in config.tasks] == ["income", "never_married"]


@pytest.mark.skipif(REAL_DATA is None, reason="RECMTL_REAL_DATA does not name a folder")
def test_the_real_files(tmp_path: Path) -> None:
    counts = prepare(Path(str(REAL_DATA)) / "census-income", tmp_path)
    for name in ("train", "test"):
        frame = pl.read_parquet(tmp_path / f"{name}.parquet")
        assert frame.height == counts[name].rows > 10_000
        assert 0.05 < frame["income"].to_numpy().mean() < 0.07
        assert 0.40 < frame["never_married"].to_numpy().mean() < 0.46
        assert frame["det_hh_summ"].n_unique() == 8
