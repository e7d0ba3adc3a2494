from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from recmtl import load_spec
from tests.datasets.raw import load, write_lines

TENREC = load("tenrec")
HEADER = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"
HISTORY = [f"hist_{i}" for i in range(1, 11)]
PARTS = ("train", "valid", "test")


def lines(rows: int = 1_000, *, history: bool = False) -> Iterator[str]:
    draw = np.random.default_rng(0)
    yield ",".join([HEADER, *(HISTORY if history else [])])
    for _ in range(rows):
        click, follow, like, share = (draw.random(4) < [0.4, 0.2, 0.3, 0.2]).astype(int)
        category = ("0", "1", r"\N")[draw.integers(3)]
        past = sorted(map(int, draw.integers(0, 60, 10)), reverse=True) if history else []
        values = [draw.integers(40), draw.integers(60), click, follow, like, share, category]
        values += [click * 2, draw.integers(3), draw.integers(8), *past]
        yield ",".join(map(str, values))


def splitmix64(value: int) -> int:
    """The hash in plain integers."""
    mask = 2**64 - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def part_of(row: int, seed: int) -> str:
    salt = splitmix64(splitmix64(0x74656E) ^ seed)
    place = splitmix64(row ^ salt) / 2**64
    return "train" if place < 0.8 else "valid" if place < 0.9 else "test"


@pytest.mark.parametrize(
    ("file", "how", "seed"),
    [("QK-video.csv", "plain", 0), ("QB-video.csv", "gz", 1), ("ctr_data_1M.csv", "zip", 2)],
)
def test_rows_are_those_of_a_plain_reading(
    tmp_path: Path, file: str, how: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    history = file == "ctr_data_1M.csv"
    write_lines(tmp_path / file, lines(history=history), how)
    out = tmp_path / "out"
    arguments = [str(tmp_path), str(out), "--file", file, "--seed", str(seed)]
    assert TENREC.main(arguments) == 0
    expected: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    nulls = 0
    for number, row in enumerate(csv.DictReader(lines(history=history))):
        values: dict[str, Any] = {k: None if v == r"\N" else int(v) for k, v in row.items()}
        nulls += values["video_category"] is None
        if history:
            values["history"] = [item for k in HISTORY if (item := values.pop(k))]
        expected[part_of(number, seed)].append(values)
    said = capsys.readouterr().out
    for part, rows in expected.items():
        found = pl.read_parquet(out / f"{part}.parquet").to_dicts()
        assert found == [{name: row[name] for name in found[0]} for row in rows], part
        assert set(found[0]) == set(rows[0])
        assert f"{part}.parquet: {len(rows)} rows (click {sum(r['click'] for r in rows)}," in said
    assert 750 < len(expected["train"]) < 850
    assert f"{nulls} values of `video_category` became null" in said


def test_the_owners_archive_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Tenrec.zip", "w") as archive:
        archive.writestr("Tenrec/QK-video.csv", "\n".join(lines(100)))
        archive.writestr("Tenrec/QB-video.csv", "\n".join(lines(50)))
    TENREC.prepare(tmp_path, tmp_path / "out")
    rows = [pl.read_parquet(tmp_path / "out" / f"{part}.parquet").height for part in PARTS]
    assert sum(rows) == 100


def test_lines_that_do_not_fit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = list(lines(50))
    write_lines(tmp_path / "QK-video.csv", [*good, "1,2,2,0,0,0,1,0,1,4", "1,2,0", ""])
    out = tmp_path / "out"
    assert TENREC.main([str(tmp_path), str(out)]) == 3
    message = capsys.readouterr().err
    assert "QK-video.csv:52: `click` is `2`, expected 0 or 1." in message
    assert "QK-video.csv:53: 3 columns, expected 10." in message
    assert TENREC.main([str(tmp_path), str(out), "--file", "ctr_data_1M.csv"]) == 3
    assert "there is no `ctr_data_1M.csv` (plain, `.gz` or `.zip`)" in capsys.readouterr().err
    assert not out.exists()
    write_lines(tmp_path / "ctr_data_1M.csv", good)
    assert TENREC.main([str(tmp_path), str(out), "--file", "ctr_data_1M.csv"]) == 3
    assert "the header lacks the columns `hist_1`, `hist_2`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_spec_trains_with_the_history(
    tmp_path: Path, trained: Callable[..., dict[str, Any]]
) -> None:
    write_lines(tmp_path / "ctr_data_1M.csv", lines(history=True))
    TENREC.prepare(tmp_path, tmp_path / "out", "ctr_data_1M.csv")
    text = TENREC.spec.read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if "name: history" in line)
    content = yaml.safe_load(text)
    content["features"].append(yaml.safe_load(line.lstrip("# -")))
    spec = tmp_path / "with_history.yaml"
    spec.write_text(yaml.safe_dump(content), encoding="utf-8")
    result = trained(spec, tmp_path / "out", "tower={kind: mmoe, expert_widths: [8]}")
    assert list(result["tasks"]) == ["click", "like", "share", "follow"]
    test = pl.read_parquet(tmp_path / "out" / "test.parquet")
    for task, metrics in result["tasks"].items():
        assert (metrics["n"], metrics["positives"]) == (test.height, test[task].sum())


def test_the_spec_uses_nothing_that_is_known_later() -> None:
    names = {feature.name for feature in load_spec(TENREC.spec).features}
    assert names == {"user_id", "item_id", "video_category", "gender", "age"}
