"""What the preparers share: reading, joining, histories, writing. Against plain loops."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import delimited
from preparing.delimited import INT, LABEL, NUMBER_OR_NULL, TEXT_OR_NULL, Problems, read_table
from preparing.disk_tables import DiskTable
from preparing.histories import Histories
from preparing.outputs import Outputs, documented, run
from preparing.raw_files import RawFile, find, require

from recmtl.errors import DataError

COLUMNS = {"id": INT, "price": NUMBER_OR_NULL, "name": TEXT_OR_NULL}
TEXTS = st.text(st.sampled_from('ab,"\x01é 0'), max_size=4)
ROWS = st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(-1e6, 1e6), TEXTS))


@settings(max_examples=60)
@given(rows=ROWS, ends=st.sampled_from(["\n", "\r\n"]), block=st.integers(90, 300))
def test_reading_gives_what_csv_gives(
    rows: list[tuple[int, float, str]], ends: str, block: int
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=ends).writerows([("id", "price", "name"), *rows])
    raw = text.getvalue().replace(ends, ends + ends, 2)  # two blank lines
    problems, frames = Problems(), []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", block)
        path = Path(folder) / "log.csv"
        path.write_bytes(b"\xef\xbb\xbf" + raw.encode())
        if rows:
            frames = list(read_table(RawFile(path), COLUMNS, problems, header=True, quoted=True))
        else:
            with pytest.raises(DataError, match=r"log\.csv: no rows"):
                list(read_table(RawFile(path), COLUMNS, problems, header=True, quoted=True))
    problems.raise_any()
    assert [r[:3] for f in frames for r in f.select(*COLUMNS).iter_rows()] == [
        (i, price, name.strip() or None) for i, price, name in rows
    ]
    lines = [line for f in frames for line in f["line"]]
    expected = [n for n, line in enumerate(raw.split(ends), start=1) if line][1:]
    assert lines == expected
    assert sum(problems.dropped.values()) == raw.split(ends)[:-1].count("")


def test_every_line_that_does_not_fit_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("1,0\n2\n3,2\nx,1\n,1\n6,1,1\n7,1.0\n8,0.5\n", encoding="utf-8")
    problems = Problems()
    frames = read_table(RawFile(path), {"id": INT, "click": LABEL}, problems, header=False)
    assert [row for frame in frames for row in frame["id"]] == [1, 7]
    with pytest.raises(DataError, match="expected 0 or 1") as caught:
        problems.raise_any()
    assert sorted(str(caught.value).splitlines()) == [
        f"{path}:2: 1 columns, expected 2.",
        f"{path}:3: `click` is `2`, expected 0 or 1.",
        f"{path}:4: `id` is `x`, expected an integer.",
        f"{path}:5: `id` is ``, expected an integer.",
        f"{path}:6: 3 columns, expected 2.",
        f"{path}:8: `click` is `0.5`, expected 0 or 1.",
    ]


def test_many_problems_are_counted_over_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
    path = tmp_path / "log.csv"
    path.write_text("1\n" + "x\n" * 500, encoding="utf-8")
    problems = Problems()
    frames = read_table(RawFile(path), {"id": INT}, problems, header=False)
    assert [frame["id"].to_list() for frame in frames] == [[1]]
    with pytest.raises(DataError, match=r"log\.csv:21: .*\n480 more problems"):
        problems.raise_any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"log\.csv: no rows"),
        (b"id\n", r"log\.csv: no rows"),
        (b"id\n1\n" + b"9" * 5_000, r"log\.csv:3: the line is longer than 1,024 bytes"),
        (b"id\n1\n\xff\xfe\n", r"log\.csv:3: this is not UTF-8 text"),
        (b"ID,name\n1,2\n", r"log\.csv:1: the header lacks the columns `id`; it is `ID,name`"),
        (b"id,id\n1,2\n", r"log\.csv:1: the header repeats"),
    ],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1_024)
    (tmp_path / "log.csv").write_bytes(content)
    file = require(tmp_path, "log.csv")
    with pytest.raises(DataError, match=message):
        list(read_table(file, {"id": INT}, Problems(), header=True))


def test_archives_in_archives_are_read_and_damage_is_told(tmp_path: Path) -> None:
    inner, outer = io.BytesIO(), tmp_path / "Set.zip"
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/log.csv", "\n".join(map(str, range(5_000))))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("set/log.zip", inner.getvalue())
        archive.writestr("set/readme.txt", "")
    file = find(tmp_path, "log.csv", archives=["set.zip"])
    assert file is not None
    assert str(file) == f"{outer}/set/log.zip/x/log.csv"
    frames = list(read_table(file, {"id": INT}, Problems(), header=False))
    assert pl.concat(frames)["id"].to_list() == list(range(5_000))

    data = bytearray(outer.read_bytes())
    data[len(data) // 3] ^= 0xFF
    outer.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be read to its end|no zip archive"):
        list(read_table(file, {"id": INT}, Problems(), header=False))
    with pytest.raises(DataError, match=r"there is no `other\.csv` .* nor `a\.zip`"):
        require(tmp_path, "other.csv", archives=["a.zip"])


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 99)), max_size=60)


@settings(max_examples=25)
@given(events=EVENTS, parts=st.integers(1, 3), last=st.integers(1, 5))
def test_histories_are_what_a_loop_finds(
    events: list[tuple[int, int, int]], parts: int, last: int
) -> None:
    questions = [(user, time) for user in range(5) for time in range(-1, 11)]
    with tempfile.TemporaryDirectory() as folder:
        histories = Histories(Path(folder), parts=parts, last=last)
        for some in (events[:20], events[20:]):
            if some:
                histories.add(*(np.array(column) for column in zip(*some, strict=True)))
        histories.finish()
        found = histories.before(*(np.array(c) for c in zip(*questions, strict=True))).to_list()
    for (user, time), items in zip(questions, found, strict=True):
        earlier = [e for e in events if e[0] == user and e[1] < time]
        assert items == [item for _, _, item in sorted(earlier, key=lambda e: e[1])][-last:]


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 2))), min_size=1
    ),
    asked=st.lists(st.integers(0, 12)),
    size=st.integers(1, 4),
    as_text=st.booleans(),
)
def test_a_join_is_a_look_in_a_dictionary(
    rows: list[tuple[int, int | None]], asked: list[int], size: int, as_text: bool
) -> None:
    kind = pl.String if as_text else pl.Int64
    table_rows = pl.DataFrame(rows, schema={"key": pl.Int64, "x": pl.Int64}, orient="row")
    first: dict[int, int | None] = {}
    differing = 0
    for key, x in rows:
        differing += first.setdefault(key, x) != x
    with tempfile.TemporaryDirectory() as folder:
        table = DiskTable(Path(folder) / "table", "key")
        for part in table_rows.with_columns(pl.col("key").cast(kind)).iter_slices(size):
            table.append(part)
        table.finish()
        keys = pl.DataFrame({"key": asked}, schema={"key": pl.Int64}).select(
            pl.col("key").cast(kind)
        )
        joined = table.join(keys)
    assert joined["x"].to_list() == [first.get(key) for key in asked]
    assert (table.repeated, table.differing) == (len(rows) - len(first), differing)
    assert table.unused == len(set(first) - set(asked))


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    out, rows = tmp_path / "out", pl.DataFrame({"click": [1, 0, 1]})

    def fail_late() -> None:
        with Outputs(out, ["train"], ["click"]) as outputs:
            for _ in range(30_000):
                outputs.write("train", rows)
            assert len(list(out.iterdir())) == 1  # a row group lies in a temporary file
            raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        fail_late()
    assert not out.exists()
    with (
        pytest.raises(DataError, match=r"test\.parquet: no row is left"),
        Outputs(out, ["train", "test"], ["click"]) as outputs,
    ):
        outputs.write("train", rows)
    assert not out.exists()
    with Outputs(out, ["train"], ["click"]) as outputs:
        outputs.write("train", rows)
    assert (outputs.rows, outputs.positives) == ({"train": 3}, {"train": {"click": 2}})
    assert pl.read_parquet(out / "train.parquet").equals(rows)
    with pytest.raises(DataError, match=r"train\.parquet: is left from another preparation"):
        Outputs(out, ["test"], [], absent=["train"])


def test_counts_are_compared_only_with_a_full_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert documented("rows", 100, 12_157_894, digits=8) == []
    assert documented("rows", 12_157_894, 12_157_894, digits=8) == []
    assert documented("rows", 42_311_111, 42_300_000, digits=3) == []
    (line,) = documented("rows", 12_157_000, 12_157_894, digits=8)
    assert "12,157,000 rows; the owner's full set has 12,157,894" in line

    def full_disk() -> list[str]:
        raise OSError(28, "No space left on device")

    assert run(full_disk) == 1
    assert "No space left on device" in capsys.readouterr().err
