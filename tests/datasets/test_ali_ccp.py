from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl import load_spec
from tests.datasets.raw import load, write_lines

ALI_CCP = load("ali_ccp")
PARTS = ("train", "test")
# Written out once more, so that a wrong field number in the preparer is found.
SINGLE = {
    "101": "user",
    "121": "profile_category",
    "122": "profile_group",
    "124": "gender",
    "125": "age",
    "126": "consumption_1",
    "127": "consumption_2",
    "128": "occupation",
    "129": "geography",
    "205": "item",
    "206": "category",
    "207": "shop",
    "216": "brand",
    "301": "position",
}
BAGS = {
    "109_14": "past_categories",
    "110_14": "past_shops",
    "127_14": "past_brands",
    "150_14": "past_intentions",
    "210": "intentions",
    "508": "past_categories_x_category",
    "509": "past_shops_x_shop",
    "702": "past_brands_x_brand",
    "853": "past_intentions_x_intentions",
}
COMMON_SINGLE = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
COMMON_BAGS = ("109_14", "110_14", "127_14", "150_14")


def features(draw: np.random.Generator, single: list[str], bags: list[str], key: int) -> str:
    """Features in a mixed order: most single fields, up to four values of each bag."""
    found = []
    for field in single:
        if field in ("101", "205") or draw.random() < 0.9:
            value = key if field == "101" else draw.integers(8)
            found.append(f"{field}\x02{value}\x031.0")
    for field in bags:
        values = draw.choice(9, draw.integers(5), replace=False)
        found += [f"{field}\x02{value}\x03{draw.integers(1, 99) / 4}" for value in values]
    draw.shuffle(found)
    return f"{len(found)},{chr(1).join(found)}"


def common_lines(part: str, visits: int = 30) -> Iterator[str]:
    draw = np.random.default_rng(PARTS.index(part))
    for visit in range(visits):
        yield f"{visit:016x},{features(draw, list(COMMON_SINGLE), list(COMMON_BAGS), visit // 2)}"


def skeleton_lines(part: str, rows: int = 600, visits: int = 25) -> Iterator[str]:
    draw = np.random.default_rng(10 + PARTS.index(part))
    single = [field for field in SINGLE if field not in COMMON_SINGLE]
    bags = [field for field in BAGS if field not in COMMON_BAGS]
    for row in range(rows):
        click, purchase = int(draw.random() < 0.5), int(draw.random() < 0.3)
        own = features(draw, single, bags, row)
        yield f"{row + 1},{click},{purchase},{draw.integers(visits):016x},{own}"


def write_raw(folder: Path, how: str = "plain") -> Path:
    for part in PARTS:
        write_lines(folder / f"sample_skeleton_{part}.csv", skeleton_lines(part), how)
        write_lines(folder / f"common_features_{part}.csv", common_lines(part), how)
    return folder


def parsed(text: str) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for feature in text.split("\x01"):
        field, rest = feature.split("\x02")
        value, count = rest.split("\x03")
        found.setdefault(field, []).append((int(value), float(count)))
    return found


def expected(part: str) -> list[dict[str, Any]]:
    """The join by dictionaries of strings."""
    common = {line.split(",")[0]: line.split(",")[2] for line in common_lines(part)}
    rows = []
    for line in skeleton_lines(part):
        sample, click, purchase, visit, _, own = line.split(",")
        if (click, purchase) == ("0", "1"):
            continue
        fields = parsed(own) | parsed(common[visit])
        row: dict[str, Any] = {
            "sample_id": int(sample),
            "click": int(click),
            "purchase": int(purchase),
            "common_feature_index": visit,
        }
        row |= {name: fields[f][0][0] if f in fields else None for f, name in SINGLE.items()}
        row |= {name: [v for v, _ in fields.get(f, [])] for f, name in BAGS.items()}
        row |= {f"{name}_count": [c for _, c in fields.get(f, [])] for f, name in BAGS.items()}
        rows.append(row)
    return rows


@pytest.mark.parametrize("how", ["plain", "zip"])
def test_rows_are_those_of_a_plain_reading(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ALI_CCP.main([str(write_raw(tmp_path / "raw", how)), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for part in PARTS:
        rows = expected(part)
        found = pl.read_parquet(tmp_path / "out" / f"{part}.parquet").to_dicts()
        assert found == [{name: row[name] for name in found[0]} for row in rows]
        assert set(found[0]) == set(rows[0])
        assert 0 < len(rows) < 600
        assert f"{part}.parquet: {len(rows)} rows (click " in said
        assert f"{600 - len(rows)} rows of sample_skeleton_{part}" in said
        assert f"5 common features that no {part} row has" in said
    assert "purchase without click" in said


def test_what_is_odd_is_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = "205\x029\x031.0\x01206\x023\x031.0\x01206\x024\x031.0\x01999\x021\x031.0"
    for part in PARTS:
        write_lines(tmp_path / f"sample_skeleton_{part}.csv", [f"1,1,1,a,7,{own}", "2,0,0,b,0,"])
        user = "101\x025\x031.0"
        lines = [f"a,1,{user}", "", "b,0,", f"a,1,{user}", "a,1,101\x026\x031.0"]
        write_lines(tmp_path / f"common_features_{part}.csv", lines)
    assert ALI_CCP.main([str(tmp_path), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    frame = pl.read_parquet(tmp_path / "out" / "train.parquet")
    assert frame.select("user", "item", "category", "shop").rows() == [(5, 9, 3, None), (None,) * 4]
    assert frame["intentions"].to_list() == [[], []]
    for line in (
        "1 lines of sample_skeleton_test.csv that count their features wrongly (all were kept)",
        "1 features of sample_skeleton_test.csv of the unknown field `999`",
        "1 values of sample_skeleton_test.csv of `category` after a row's first one",
        "1 blank lines of common_features_train.csv",
        "2 lines of common_features_train.csv that repeat a common_feature_index",
        "2 of them with other features than the first (which stays)",  # one in each part
    ):
        assert line in said


def test_lines_that_do_not_fit_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = write_raw(tmp_path / "raw"), tmp_path / "out"
    good = list(skeleton_lines("test"))
    bad = [
        "601,0,2,0000000000000001,0,",
        "602,0,0,0000000000000001,1,205\x02x\x031.0",
        "603,0,0,0000000000000001,1,205\x027\x03nan",
        "604,0,0,0000000000000001,1,205\x027",
        "605,0,0,ffff,1,205\x027\x031.0",
        "606,0",
    ]
    write_lines(raw / "sample_skeleton_test.csv", [*good, *bad])
    assert ALI_CCP.main([str(raw), str(out)]) == 3
    message = capsys.readouterr().err
    file = raw / "sample_skeleton_test.csv"
    assert f"{file}:601: `purchase` is `2`, expected 0 or 1." in message
    assert f"{file}:602: feature `205:x=1.0`, expected field:id=count." in message
    assert f"{file}:603: feature `205:7=nan`, expected field:id=count." in message
    assert f"{file}:604: feature `205:7`, expected field:id=count." in message
    assert f"{file}:605: `ffff` is not in {raw / 'common_features_test.csv'}." in message
    assert f"{file}:606: 2 columns, expected 6." in message
    (raw / "common_features_train.csv").unlink()
    assert ALI_CCP.main([str(raw), str(out)]) == 3
    assert "there is no `common_features_train.csv`" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_the_spec_trains(tmp_path: Path, trained: Callable[..., dict[str, Any]]) -> None:
    out = tmp_path / "out"
    ALI_CCP.prepare(write_raw(tmp_path / "raw"), out)
    result = trained(ALI_CCP.spec, out, "tower={kind: mmoe, expert_widths: [8]}")
    test = pl.read_parquet(out / "test.parquet")
    assert {name: metrics["n"] for name, metrics in result["tasks"].items()} == {
        "ctr": test.height,
        "cvr": test["click"].sum(),
        "ctcvr": test.height,
    }
    assert result["tasks"]["ctcvr"]["positives"] == test["purchase"].sum()


def test_the_spec_uses_every_field() -> None:
    features = {feature.name: feature for feature in load_spec(ALI_CCP.spec).sparse}
    assert set(features) == {*SINGLE.values(), *BAGS.values()}
    for name, feature in features.items():
        assert feature.weights == (f"{name}_count" if name in BAGS.values() else None)
        assert feature.vocab is not None
        assert feature.vocab.min_count == 10
