from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.scan import RowFilter, open_log
from recmtl.data.wanted import Want
from recmtl.errors import DataError


def write(path: Path, values: range | list[object], rows: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({"x": list(values), "y": [str(v) for v in values]})
    frame.write_parquet(path, row_group_size=rows)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    write(folder / "b.parquet", range(25), rows=10)
    write(folder / "a.parquet", range(100, 103))
    write(folder / "deep" / "c.parquet", range(200, 207), rows=3)
    write(folder / ".hidden" / "d.parquet", range(9))
    write(folder / "_temporary" / "e.parquet", range(9))
    (folder / "notes.txt").write_text("not a log")
    return folder


ORDER = [*range(100, 103), *range(25), *range(200, 207)]


def test_folder_is_recursive_and_sorted(folder: Path) -> None:
    log = open_log(folder)
    assert [f.name for f in log.files] == ["a.parquet", "b.parquet", "c.parquet"]
    assert log.read(["x"], 0, 99)["x"].to_list() == ORDER
    assert log.lazy().collect()["x"].to_list() == ORDER
    assert [(g.index, g.start, g.num_rows) for g in log.row_groups] == [
        (0, 0, 3),
        (0, 3, 10),
        (1, 13, 10),
        (2, 23, 5),
        (0, 28, 3),
        (1, 31, 3),
        (2, 34, 1),
    ]


def test_file_glob_and_base(folder: Path) -> None:
    assert open_log(folder / "b.parquet").num_rows == 25
    assert open_log("*.parquet", base=folder).num_rows == 28
    assert open_log("**/c.parquet", base=folder).num_rows == 7
    assert open_log(str(folder / "[ab].parquet")).num_rows == 28


def test_name_with_brackets_is_a_file(tmp_path: Path) -> None:
    assert open_log(write(tmp_path / "x[1].parquet", range(4))).read(["x"], 1, 3)[
        "x"
    ].to_list() == [
        1,
        2,
    ]


def test_key_equals_value_folders_add_no_column(tmp_path: Path) -> None:
    write(tmp_path / "day=1" / "x.parquet", range(4))
    assert open_log(tmp_path).schema.names() == ["x", "y"]


@given(start=st.integers(-2, 40), stop=st.integers(-2, 40))
def test_read_is_a_slice(folder: Path, start: int, stop: int) -> None:
    frame = open_log(folder).read(["y", "x"], start, stop)
    assert frame["x"].to_list() == ORDER[max(start, 0) : max(stop, 0)]
    assert frame.columns == ["y", "x"]


@given(keep=st.lists(st.booleans(), min_size=35, max_size=35), start=st.integers(0, 36))
def test_filtered_rows_are_numbered_anew(folder: Path, keep: list[bool], start: int) -> None:
    log = open_log(folder)
    sizes, bits, first = [3, 25, 7], [], 0
    for size in sizes:
        bits.append(np.packbits(np.array(keep[first : first + size])))
        first += size
    kept = [x for x, k in zip(ORDER, keep, strict=True) if k]
    part = log.filtered(RowFilter("some", tuple(bits)))
    assert part.num_rows == len(kept)
    assert sum(g.num_rows for g in part.row_groups) == len(kept)
    assert part.read(["x"], start, start + 9)["x"].to_list() == kept[start : start + 9]
    assert part.lazy(["x"]).collect()["x"].to_list() == kept
    assert part.fingerprint != log.fingerprint


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first = open_log(write(tmp_path / "a" / "x.parquet", range(4))).fingerprint
    assert first == open_log(write(tmp_path / "b" / "x.parquet", range(4))).fingerprint
    assert first != open_log(write(tmp_path / "c" / "x.parquet", range(5))).fingerprint
    assert first != open_log(write(tmp_path / "d" / "y.parquet", range(4))).fingerprint


def test_fingerprint_tells_rewritten_rows_of_the_same_size_and_footer(tmp_path: Path) -> None:
    path, values = tmp_path / "x.parquet", np.arange(1000)
    found = []
    for order in (values, np.random.default_rng(0).permutation(values)):
        pl.DataFrame({"id": order}).write_parquet(path, compression="uncompressed")
        found.append((path.stat().st_size, open_log(path).fingerprint))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_integers_of_several_widths_become_the_widest(tmp_path: Path) -> None:
    for number, dtype in enumerate((pl.Int8, pl.Int64, pl.UInt16)):
        frame = pl.DataFrame({"x": pl.Series([number], dtype=dtype)})
        frame.write_parquet(tmp_path / f"{number}.parquet")
    log = open_log(tmp_path)
    assert log.schema == {"x": pl.Int64}
    assert log.read(["x"], 0, 3).equals(pl.DataFrame({"x": [0, 1, 2]}))
    assert log.lazy().collect().equals(pl.DataFrame({"x": [0, 1, 2]}))


def test_categories_are_read_as_strings(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": ["a", "b"], "l": [["a"], []]})
    frame.cast({"x": pl.Categorical, "l": pl.List(pl.Categorical)}).write_parquet(
        tmp_path / "a.parquet"
    )
    table = frame.to_arrow()
    column = table["x"].dictionary_encode()
    pq.write_table(table.set_column(0, "x", column), tmp_path / "b.parquet")
    log = open_log(tmp_path)
    assert log.schema == {"x": pl.String, "l": pl.List(pl.String)}
    assert log.read(["x"], 0, 4)["x"].to_list() == ["a", "b", "a", "b"]


def test_a_column_of_nulls_goes_with_anything(tmp_path: Path) -> None:
    pl.DataFrame({"x": [None, None]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"x": ["s"]}).write_parquet(tmp_path / "b.parquet")
    assert open_log(tmp_path).read(["x"], 0, 9)["x"].to_list() == [None, None, "s"]


def test_schema_drift(tmp_path: Path) -> None:
    pl.DataFrame({"x": [1], "y": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"x": ["1"], "z": [1]}).write_parquet(tmp_path / "b.parquet")
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    problems = [
        f"{b}: column `x` is String, in {a} it is Int64. Write it as integers in every "
        "file, or as strings in every file.",
        f"{b}: column `y` is missing, {a} has it.",
        f"{a}: column `z` is missing, {b} has it.",
    ]
    with pytest.raises(DataError, match="column") as caught:
        open_log(tmp_path, columns=dict.fromkeys("xyz", Want("any", "column")))
    assert str(caught.value).splitlines() == problems
    log = open_log(tmp_path)  # nobody says that they will be read
    assert log.schema == {}
    with pytest.raises(DataError, match="column") as caught:
        log.read(["x", "y", "z"], 0, 2)
    assert str(caught.value).splitlines() == problems


def test_nothing_there(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", range(3))
    with pytest.raises(
        DataError, match=r"there is no such file or folder. Did you mean `train.parq"
    ):
        open_log(tmp_path / "trian.parquet")
    with pytest.raises(DataError, match="no file matches this glob"):
        open_log("x*.parquet", base=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no `\*.parquet` and no `\*.csv` file is in this folder"):
        open_log(tmp_path / "empty")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "empty or truncated"),
        (lambda data: data[: len(data) // 2], "truncated Parquet file: its end is missing"),
        (lambda data: b"user,click\n" * 9, "no Parquet file"),
        (lambda data: data[:-40] + b"\xff" * 32 + data[-8:], "footer is corrupt"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: object, words: str) -> None:
    data = write(tmp_path / "ok.parquet", range(100)).read_bytes()
    (tmp_path / "bad.parquet").write_bytes(damage(data))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"bad.parquet: .*{words}"):
        open_log(tmp_path)


def test_damaged_pages_are_found_when_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    noise = np.random.default_rng(0).integers(0, 2**62, 20_000)
    pl.DataFrame({"x": [f"{n:x}" for n in noise]}).write_parquet(path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(bytes(data))
    log = open_log(path)
    with pytest.raises(DataError, match=r"x.parquet: the file is corrupt or changed"):
        log.read(["x"], 0, 20_000)
    with pytest.raises(DataError, match=r"x.parquet: a file is corrupt or changed"):
        log.aggregate(["x"], [pl.col("x").n_unique()])


def test_file_without_rows(tmp_path: Path) -> None:
    pl.DataFrame({"x": []}, schema={"x": pl.Int64}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet: the file has no rows"):
        open_log(tmp_path)


def test_unknown_column(folder: Path) -> None:
    with pytest.raises(DataError, match=r"column `xx` is missing. Did you mean `x`"):
        open_log(folder).read(["xx"], 0, 1)
    with pytest.raises(DataError, match=r"column `zz` is missing."):
        open_log(folder).lazy(["zz"])
