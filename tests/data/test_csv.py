"""CSV as a log: the same rows as any reader's, by their numbers, and every fault with its line."""

from __future__ import annotations

import csv
import io
import tempfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recmtl.data import (
    Encoders,
    Log,
    TrainStreams,
    check_columns,
    csv_file,
    csv_index,
    open_log,
    open_splits,
)
from recmtl.data.wanted import Kind, Want
from recmtl.errors import DataError
from tests.data.strategies import make_spec
from tests.data.test_encode import assert_equal


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def wants(**kinds: Kind) -> dict[str, Want]:
    return {name: Want(kind, f"as {kind}") for name, kind in kinds.items()}


def column(folder: Path, kind: Kind, *texts: str) -> pl.Series:
    """What a column of these fields becomes."""
    path = write(folder / "x.csv", "".join(f"{text}\n" for text in ("c", *texts)))
    log = open_log(path, columns=wants(c=kind))
    return log.read(["c"], 0, len(texts))["c"]


FIELDS = st.text(st.sampled_from('ab",\n\r ;é\ufeff0'), max_size=6)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FIELDS, min_size=width, max_size=width), min_size=1, max_size=9)
)


@settings(max_examples=60)
@given(
    rows=TABLES,
    quoted=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    closed=st.booleans(),
    chunk=st.integers(1, 40),
    places=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
@example([["\ufeffa", "b"]], False, "\n", True, True, 40, (0, 9))
def test_fields_come_back_as_they_were(
    rows: list[list[str]],
    quoted: bool,
    end: str,
    bom: bool,
    closed: bool,
    chunk: int,
    places: tuple[int, int],
) -> None:
    names = [f"c{number}" for number in range(len(rows[0]))]
    quoted = quoted or len(names) == 1  # a last line without anything is none
    text = end.join(",".join(as_field(field, quoted) for field in row) for row in [names, *rows])
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [names, *rows]
    data = (csv_index.BOM if bom else b"") + (text + end * closed).encode()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = write(Path(folder) / "x.csv", data)
        header, problems = csv_index.read_header(path), csv_index.Problems(path)
        patch.setattr(csv_index, "_CHUNK", chunk)
        *_, index = csv_index.read_blocks(path, header, problems)
        assert not problems.messages()
        assert isinstance(index, csv_index.CsvIndex)
        assert index.num_rows == len(rows)
        log = open_log(path, columns=wants(**dict.fromkeys(names, "string")))
        low, high = places
        found = log.read(names, low, high).fill_null("").rows()
        assert found == [tuple(row) for row in rows[low:high]]


def as_field(text: str, quoted: bool) -> str:
    if quoted or any(mark in text for mark in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


@given(value=st.floats() | st.integers().map(float))
def test_numbers_are_read_to_the_last_digit(value: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (found,) = column(Path(folder), "number", repr(value)).to_list()
    assert found == value or (found != found and value != value)


def test_rows_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 70_000
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "row": np.arange(rows),
            "price": rng.random(rows),
            "text": [f'{n:x},"{n}"\n' * (n % 3) for n in rng.integers(0, 999, rows)],
        }
    ).with_columns(price=pl.when(pl.col("row") % 7 > 0).then("price"))
    frame.write_csv(tmp_path / "x.csv")
    kinds = wants(row="id", price="number", text="string")
    log = open_log(tmp_path, columns=kinds)
    assert [group.num_rows for group in log.row_groups] == [65_536, rows - 65_536]
    monkeypatch.setattr(csv_file, "_READ_BYTES", 100_000)
    assert log.read(frame.columns, 0, rows).equals(frame)
    for start, stop in ((0, 1), (1023, 1025), (65_535, 65_537), (rows - 3, rows + 3)):
        assert log.read(["text", "row"], start, stop).equals(frame[start:stop, ["text", "row"]])
    assert log.lazy().filter(pl.col("row") % 2 == 0).collect().equals(frame[::2])
    assert log.lazy(["price"]).max().collect().item() == frame["price"].max()
    assert log.lazy(["price"]).head(3).collect().equals(frame[:3, ["price"]])


SOME = {
    "integers": ("id", ["1", "", "-2", "0"], pl.Int64, [1, None, -2, 0]),
    "leading zeros": ("id", ["007", "1", ""], pl.String, ["007", "1", None]),
    "signs": ("id", ["+1", "2"], pl.String, ["+1", "2"]),
    "beyond int64": ("id", ["9223372036854775808", "2"], pl.String, None),
    "spaces": ("id", [" 1", "2"], pl.String, None),
    "flags": ("id", ["true", "False", ""], pl.Boolean, [True, False, None]),
    "flags and words": ("id", ["true", "False", "maybe"], pl.String, None),
    "numbers and words": ("id", ["1", "NULL", "x", "2.0"], pl.String, None),
    "an empty text": ("id", ["x", '""', ""], pl.String, ["x", "", None]),
    "integers in quotes": ("id", ['"1"', '""', '"3"'], pl.Int64, [1, None, 3]),
    "nothing": ("id", ["", ""], pl.Int64, [None, None]),
    "fitted on strings": ("string", ["1", "", "2"], pl.String, ["1", None, "2"]),
    "fitted on integers": ("integer", ["1", "", "2"], pl.Int64, [1, None, 2]),
    "fitted on flags": ("integer", ["true", "", "FALSE"], pl.Boolean, [True, None, False]),
    "whole numbers": ("number", ["1", "", "3"], pl.Int64, [1, None, 3]),
    "numbers": ("number", ["1", "2.5", "-1e-3"], pl.Float64, [1.0, 2.5, -0.001]),
    "zeros before numbers": ("number", ["007", "+1"], pl.Float64, [7.0, 1.0]),
    "infinities": ("number", ["inf", "-inf", "1e400"], pl.Float64, [np.inf, -np.inf, np.inf]),
    "flags among numbers": ("number", ["0.5", "true", "FALSE"], pl.Float64, [0.5, 1.0, 0.0]),
    "kept values": ("value", ["1.50", "2"], pl.String, ["1.50", "2"]),
    "kept integers": ("value", ["1", "2"], pl.Int64, [1, 2]),
    "numeric times": ("time", ["1", "2.5"], pl.Float64, [1.0, 2.5]),
    "days": ("time", ["2024-02-29", ""], pl.Date, [date(2024, 2, 29), None]),
    "times": (
        "time",
        ["2024-02-29 12:00:00", "2024-02-29T12:00:00.25"],
        pl.Datetime("ns"),
        [datetime(2024, 2, 29, 12), datetime(2024, 2, 29, 12, 0, 0, 250_000)],
    ),
    "anything": ("any", ["1", "2.5"], pl.Float64, [1.0, 2.5]),
}


@pytest.mark.parametrize("case", SOME)
def test_types_follow_from_all_values(tmp_path: Path, case: str) -> None:
    kind, texts, dtype, expected = SOME[case]
    found = column(tmp_path, kind, *texts)  # type: ignore[arg-type]
    assert found.dtype == dtype
    assert found.to_list() == (texts if expected is None else expected)


def test_instants_of_several_offsets(tmp_path: Path) -> None:
    found = column(tmp_path, "time", "2024-01-01T12:00:00Z", "2024-01-01 12:00:00+01:00")
    assert found.dtype == pl.Datetime("ns", "UTC")
    assert (found[0] - found[1]).total_seconds() == 3600


QUOTE = (
    "a quote stands inside a field, or a field before it is not closed. Put such a field into "
    "quotes, and double the quotes in it."
)
OPEN = "a quoted field that begins here does not end. Close its quotes."
RETURN = (
    "a carriage return stands alone. Lines end with a line feed, and a field with a line break in "
    "it stands in quotes."
)
EXPECTED = "expected a number, or nothing for a null."
FAULTS: list[tuple[str | bytes, list[str]]] = [
    ("", [": the file is empty. A CSV file begins with column names."]),
    ("a,b\n", [": the file has no rows. Write rows to it, or take another path."]),
    ("\n1,2\n", [":1: the line is empty. A CSV file begins with column names."]),
    (csv_index.BOM, [":1: the line is empty. A CSV file begins with column names."]),
    ("a;b\n1;2\n", [":1: fields are separated by ';'; write commas."]),
    ("a,b,a\n1,2,3\n", [":1: several columns are called `a`. Give each a name of its own."]),
    (b"a,b\xe9\n1,2\n", [":1: the header is no UTF-8 text. Write it as UTF-8."]),
    ('"a,b\n1,2\n', [":1: the header is no line of column names (unexpected end of data)."]),
    ("a,b\n1,2\n".encode("utf-16"), [": this is no UTF-8 text. Write it as UTF-8."]),
    ("PAR1\n", [": this is a Parquet file. Name it so: `.parquet`."]),
    ("a,b\r1,2\r", [f":1: {RETURN}"]),
    ("a,b\n1,2\r", [f":2: {RETURN}"]),
    (
        'a,b\n1,2\n3\n"x\n\ny",5\n\n6,7,8\n',
        [
            ":3: the line has 1 of 2 fields, which the header names.",
            ":7: the line is empty; the header names 2 fields.",
            ":8: the line has 3 of 2 fields, which the header names.",
        ],
    ),
    ('a,b\n1,2\n3,4"5\n', [f":3: {QUOTE}"]),
    ('a,b\n1,"2"3\n', [f":2: {QUOTE}"]),
    ('a,b\n1,"2\n3,"4"\n', [f":3: {QUOTE}"]),
    (
        'a,b\n1,2\n3,"4\n5,6\n',
        [":3: a quoted field that begins here does not end. Close its quotes."],
    ),
    (
        b"a,b\n1,2\n1,\xff\n",
        [":3: byte 0xff is no UTF-8 text. Write the file as UTF-8."],
    ),
    (
        'a,b\n1,2\n"two\nlines",\nx,y\n',
        [
            f":3: column `a` (as number) is `two lines`, {EXPECTED}",
            f":5: column `a` (as number) is `x`, {EXPECTED}",
            ":5: column `b` (as integer) is `y`, expected an integer, as the table was fitted on, "
            "or nothing for a null.",
        ],
    ),
    (
        f"a,b\n{'z' * 99},1\n",
        [f":2: column `a` (as number) is `{'z' * 40}...`, {EXPECTED}"],
    ),
    (
        "a,b\n" + "x,1\n" * 30,
        [
            *(f":{line}: column `a` (as number) is `x`, {EXPECTED}" for line in range(2, 22)),
            ": and 10 more problems like these.",
        ],
    ),
]


@pytest.mark.parametrize(("text", "problems"), FAULTS)
def test_faults_are_told_with_their_lines(
    tmp_path: Path, text: str | bytes, problems: list[str]
) -> None:
    path = write(tmp_path / "x.csv", text)
    with pytest.raises(DataError, match="csv") as caught:
        open_log(path, columns=wants(a="number", b="integer"))
    assert str(caught.value).splitlines() == [f"{path}{problem}" for problem in problems]


def test_faults_of_all_files_at_once(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.csv", "c\nx\n")
    with pytest.raises(DataError, match="csv") as caught:
        open_log(tmp_path, columns=wants(c="number"))
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/a.csv:2",
        f"{tmp_path}/b.csv:2",
    ]


@pytest.mark.parametrize("texts", [("1", "NULL", "2"), ("1.0", "nan", "")])
def test_integers_in_disguise_are_no_strings(tmp_path: Path, texts: tuple[str, ...]) -> None:
    """A float or a word for null would turn every id into a text that scoring does not meet."""
    line = 3 if texts[1] == "NULL" else 2
    with pytest.raises(
        DataError,
        match=rf"x\.csv:{line}: column `c` \(as id\) is `.*`: but for such values it holds integer",
    ):
        column(tmp_path, "id", *texts)


def test_lists_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "history,tags,weights,click\n1,2,3,0\n")
    features = [
        {"name": "tags", "type": "sparse", "hash": 9, "dim": 4, "weights": "weights"},
        {"name": "history", "type": "sequence", "hash": 9, "dim": 4, "max_len": 3},
    ]
    spec = make_spec(features, [{"name": "ctr", "label": "click"}], train="train.csv")
    with pytest.raises(DataError, match="list") as caught:
        open_splits(spec, tmp_path)
    wrong = [("tags", "feature `tags`"), ("history", "feature `history`")]
    wrong.append(("weights", "weights of feature `tags`"))
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/train.csv: column `{name}` ({role}) is a list, which CSV has no form for. "
        "Write the log as Parquet."
        for name, role in wrong
    ]


def test_kinds_of_files(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "x\n1\n")
    write(tmp_path / "deep.CSV", "x\n2\n")
    write(tmp_path / "_temporary.csv", "x\n3\n")
    assert open_log(tmp_path).read(["x"], 0, 9)["x"].to_list() == [1, 2]
    write(tmp_path / "b.csv.gz", b"")
    with pytest.raises(DataError, match=r"b\.csv\.gz: a packed CSV cannot be read from the middle"):
        open_log(tmp_path)
    (tmp_path / "b.csv.gz").unlink()
    pl.DataFrame({"x": [4]}).write_parquet(tmp_path / "c.parquet")
    for path in (tmp_path, tmp_path / "*"):
        with pytest.raises(
            DataError,
            match=r"holds CSV \(.*a\.csv\) and Parquet \(.*c\.parquet\)\. A log is ",
        ):
            open_log(path)
    assert open_log(tmp_path / "*.csv").num_rows == 1
    with pytest.raises(DataError, match=r"x\.pq: this is no Parquet file\. Is it CSV\? Then"):
        open_log(write(tmp_path / "x.pq", "x,y\n1,2\n3,4\n"))


def test_fingerprint_follows_every_byte(tmp_path: Path) -> None:
    texts = ["x,y\n1,2\n", "x,y\n1,3\n", "x,y\n1,2", "x,z\n1,2\n"]
    found = [open_log(write(tmp_path / "x.csv", text)).fingerprint for text in texts]
    assert len(set(found)) == len(texts)
    assert open_log(write(tmp_path / "x.csv", texts[0])).fingerprint == found[0]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "x\n1\n2\n")
    log = open_log(path)
    write(path, "x\n1\n2\n3\n")
    with pytest.raises(DataError, match=r"x\.csv: the file changed since it was opened"):
        log.read(["x"], 0, 1)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.csv: the file cannot be read"):
        log.read(["x"], 0, 1)


def test_columns_by_name_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "x,y,only\n1,2,3\n")
    write(tmp_path / "b.csv", "y,x\n4,3\n")
    log = open_log(tmp_path, columns=wants(x="id", y="number"))
    assert log.read(["x", "y"], 0, 2).rows() == [(1, 2), (3, 4)]
    with pytest.raises(DataError, match=r"b\.csv: column `only` is missing, .*a\.csv has it"):
        open_log(tmp_path, columns=wants(x="id", only="value"))


def test_a_column_without_a_name(tmp_path: Path) -> None:
    log = open_log(write(tmp_path / "x.csv", ",x\n0,1\n1,2\n"))  # the index of a pandas frame
    assert log.lazy().collect().rows() == [(0, 1), (1, 2)]
    assert log.schema.names() == ["", "x"]


def test_one_type_for_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "user,price,at\n1,2,3\n")
    write(tmp_path / "b.csv", "user,price,at\nx,2.5,\n")
    log = open_log(tmp_path, columns=wants(user="id", price="number", at="time"))
    assert log.read(["user", "price", "at"], 0, 2).rows() == [("1", 2.0, 3), ("x", 2.5, None)]
    write(tmp_path / "c.csv", "user,price,at\nx,2.5,2024-01-01\n")
    with pytest.raises(DataError, match=r"c\.csv: column `at` holds dates, in .*a\.csv integers\."):
        open_log(tmp_path, columns=wants(user="id", price="number", at="time"))


TABLES_SPEC = [
    {"name": "home", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "work", "type": "sparse", "table": "home"},
    {"name": "user", "type": "sparse", "hash": 9, "dim": 4},
    {"name": "age", "type": "sparse", "buckets": [18, 30], "dim": 4},
    {"name": "price", "type": "dense"},
]
CTR = [{"name": "ctr", "label": "click"}]


def test_validation_is_read_as_training_was(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "home,work,user,age,price,click\n1,x,7,20,1,0\n2,,8,,.5,1\n")
    write(tmp_path / "valid.csv", "home,work,user,age,price,click\n1,2,7,20,1,true\n")
    spec = make_spec(TABLES_SPEC, CTR, train="train.csv", valid="valid.csv")
    splits = open_splits(spec, tmp_path)
    assert splits.valid is not None
    for log in splits:
        assert log is not None
        check_columns(log, spec, labels=True)
        types = [log.schema[name] for name in ("home", "work", "user")]
        assert types == [pl.String, pl.String, pl.Int64]  # `home` alone has integers
    encoders = Encoders.fit(spec, train=splits.train)
    batch = encoders.encode(splits.valid.read(encoders.columns(labels=True), 0, 1), labels=True)
    assert (batch.ids_FB[0] > 0).all()  # `1` is what it was
    write(tmp_path / "valid.csv", "home,work,user,age,price,click\n1,2,u7,20,1,1\n")
    with pytest.raises(DataError, match=r"valid\.csv:2: column `user` \(feature `user`\) is `u7`"):
        open_splits(spec, tmp_path)


def both(folder: Path, rows: int) -> tuple[Log, Log, Any]:
    """A log as CSV and as Parquet, and its spec."""
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "home": rng.choice(["x", "y,", 'z"', ""], rows),
            "work": pl.Series(["x", "w", None]).gather(rng.integers(0, 3, rows)),
            "user": rng.integers(-(2**63), 2**63 - 1, rows),
            "age": rng.integers(10, 60, rows),
            "price": rng.standard_normal(rows) ** 3,
            "click": rng.integers(0, 2, rows).astype(np.int8),
            "weight": rng.random(rows),
            "at": rng.permutation(rows),
        }
    ).with_columns(pl.col("age", "price", "user").replace(pl.col("age").first(), None))
    frame.write_csv(folder / "train.csv")
    frame.write_parquet(folder / "train.parquet", row_group_size=1000)
    valid = {"fraction": 0.2, "by": "user"}
    logs = []
    for kind in ("csv", "parquet"):
        spec = make_spec(TABLES_SPEC, CTR, train=f"train.{kind}", valid=valid, weight="weight")
        logs.append(open_splits(spec, folder).train)
    return logs[0], logs[1], make_spec(TABLES_SPEC, CTR, weight="weight")


def test_encoders_and_batches_equal_those_of_parquet(tmp_path: Path) -> None:
    csv_log, parquet_log, spec = both(tmp_path, 3000)
    assert csv_log.num_rows == parquet_log.num_rows < 3000
    batches = []
    for log in (csv_log, parquet_log):
        encoders = Encoders.fit(spec, train=log)
        encoders.save(tmp_path / log.files[0].suffix)
        streams = TrainStreams(log, encoders, batch_size=512, seed=1, memory_bytes=1 << 30)
        batches.append(list(streams.batches(0)))
    for one, other in zip(*batches, strict=True):
        assert_equal(one, other)
    first, second = (sorted((tmp_path / kind).iterdir()) for kind in (".csv", ".parquet"))
    assert [file.name for file in first] == [file.name for file in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("valid", [{"last": 0.2, "by": "at"}, {"fraction": 0.8, "by": "home"}])
def test_splits_equal_those_of_parquet(tmp_path: Path, valid: dict[str, Any]) -> None:
    both(tmp_path, 300)
    parts = []
    for kind in ("csv", "parquet"):
        spec = make_spec(TABLES_SPEC, CTR, train=f"train.{kind}", valid=valid)
        splits = open_splits(spec, tmp_path)
        parts += [log.read(["price"], 0, 300)["price"].to_list() for log in splits if log]
        parts += [log.lazy(["price"]).collect()["price"].to_list() for log in splits if log]
    assert parts[:4] == parts[4:]
    assert parts[0] == parts[2]
