from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from recmtl.data import Log, open_log
from recmtl.data.forward import read_forward, release
from recmtl.data.scan import RowFilter
from recmtl.errors import DataError

ROWS = 30_000
COLUMNS = ["row", "name", "items", "kind"]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "row": np.arange(ROWS),
            "name": [None if i % 7 == 0 else f"n{i % 1000}" for i in range(ROWS)],
            "items": [None if i % 11 == 0 else list(range(i % 4)) for i in range(ROWS)],
            "kind": pl.Series([f"k{i % 3}" for i in range(ROWS)], dtype=pl.Categorical),
            "x": rng.normal(size=ROWS),
        }
    )


@pytest.fixture(scope="module", params=[1, 700, 1 << 20], ids=lambda rows: f"groups of {rows}")
def log(
    request: pytest.FixtureRequest, frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Log:
    folder = tmp_path_factory.mktemp("log")
    if request.param == 1:  # such a file has a long footer
        frame[:500].write_parquet(folder / "a.parquet", row_group_size=1)
        frame[500:].write_parquet(folder / "b.parquet")
    else:
        frame[:9000].write_parquet(folder / "a.parquet", row_group_size=request.param)
        pq.write_table(frame[9000:].to_arrow(), folder / "b.parquet", row_group_size=request.param)
    return open_log(folder)


def expected(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(COLUMNS).with_columns(pl.col("kind").cast(pl.String))


@pytest.mark.parametrize("most", [650, 5000, 1 << 20])
def test_pieces_end_where_row_groups_do(log: Log, frame: pl.DataFrame, most: int) -> None:
    ends = {group.start for group in log.row_groups} | {ROWS}
    parts, start = [], 0
    while start < ROWS:
        stop = log.stop_after(start, most)
        assert start < stop <= start + most
        if stop not in ends:
            assert stop == start + most
            assert not any(start < end <= stop for end in ends)
        parts.append(log.read(COLUMNS, start, stop))
        start = stop
    assert pl.concat(parts).equals(expected(frame))


def test_any_ranges_in_any_order(log: Log, frame: pl.DataFrame) -> None:
    rng = np.random.default_rng(1)
    whole = expected(frame)
    ranges = [(0, 10), (10, 4000), (4000, 4001), (8000, 9500), (0, ROWS), (ROWS - 1, ROWS)]
    ranges += [tuple(sorted(pair)) for pair in rng.integers(0, ROWS, (20, 2)).tolist()]  # type: ignore[misc]
    for start, stop in ranges:
        assert log.read(COLUMNS, start, stop).equals(whole[start:stop]), (start, stop)


def test_rows_are_taken_by_their_numbers(log: Log, frame: pl.DataFrame) -> None:
    rng = np.random.default_rng(2)
    whole = expected(frame)
    for count in (0, 1, 50, 9000):
        rows = np.sort(rng.permutation(ROWS)[:count])
        assert log.take(COLUMNS, rows).equals(whole[rows])


def test_rows_of_a_part_are_taken_by_their_numbers(log: Log, frame: pl.DataFrame) -> None:
    keeps = np.random.default_rng(3).random(ROWS) < 0.3
    first = pl.scan_parquet(log.files[0]).select(pl.len()).collect().item()
    bits = tuple(np.packbits(part) for part in np.split(keeps, [first]))
    part = log.filtered(RowFilter("some", bits))
    rows = np.sort(np.random.default_rng(4).permutation(part.num_rows)[:500])
    assert part.take(COLUMNS, rows).equals(expected(frame).filter(pl.Series(keeps))[rows])


def test_a_row_group_is_decoded_once(
    frame: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.parquet"
    frame.write_parquet(path, row_group_size=1 << 20)
    opened: list[Path] = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *a, **k: opened.append(a[0]) or real(*a, **k))
    log = open_log(path)
    parts = [log.read(COLUMNS, start, start + 777) for start in range(0, ROWS, 777)]
    assert pl.concat(parts).equals(expected(frame))
    assert opened == [path]
    log.read(COLUMNS, 5, 9)
    assert len(opened) == 2


def test_each_thread_has_a_place_of_its_own(log: Log, frame: pl.DataFrame) -> None:
    whole, wrong = expected(frame), []

    def read(offset: int) -> None:
        starts = range(offset, ROWS - 2000, 2000)
        wrong.extend(s for s in starts if not log.read(COLUMNS, s, s + 500).equals(whole[s:][:500]))

    threads = [threading.Thread(target=read, args=(k * 300,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_changes_is_read_anew(frame: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame.write_parquet(path)
    log = open_log(path)
    assert log.read(["row"], 0, 5000)["row"].to_list() == list(range(5000))
    frame[:6000].write_parquet(path)
    with pytest.raises(DataError, match=r"a\.parquet: .*changed"):
        log.read(["row"], 4000, 9000)


def test_what_pyarrow_cannot_read_is_an_error_of_the_file(
    frame: pl.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    frame.write_parquet(path, compression="uncompressed")
    log = open_log(path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.parquet: the file is corrupt or changed"):
        log.read(COLUMNS, 0, 100)


def test_nothing_is_kept_after_the_last_row(frame: pl.DataFrame, tmp_path: Path) -> None:
    from recmtl.data import forward

    path = tmp_path / "a.parquet"
    frame.write_parquet(path)
    read_forward(path, ["row"], 0, 100)
    assert forward._place.forward is not None
    read_forward(path, ["row"], 100, ROWS)
    assert forward._place.forward is None
    release()


def test_row_groups_that_do_not_fit_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = pl.DataFrame({f"x{i}": rng.normal(size=150_000) for i in range(12)})
    path = tmp_path / "wide.parquet"
    wide.write_parquet(path, row_group_size=1 << 20, compression="uncompressed")
    log = open_log(path)
    match = (
        r"wide\.parquet: a row group has 150,000 rows, and to read 12 columns of it takes about 12 "
        r"MiB: too much for `data\.memory` of 20 MiB\. Use at least `data\.memory=24MiB`, or write "
        r"the file with smaller row groups \(`row_group_size=\d+`\)"
    )
    with pytest.raises(DataError, match=match):
        log.require_room(wide.columns, 20 << 20)
    log.require_room(wide.columns[:9], 20 << 20)
    log.require_room(wide.columns, 32 << 20)
    shared = (
        r"of 32 MiB, which 2 workers share\. Use at least `data\.memory=\d+MiB` or fewer workers"
    )
    with pytest.raises(DataError, match=shared):
        log.require_room(wide.columns, 32 << 20, readers=2)


def test_reading_does_not_import_pandas(log: Log) -> None:
    """Which pyarrow does for many a convenience: .2 s."""
    script = (
        "import sys; from recmtl.data import open_log; log = open_log(sys.argv[1]); "
        "log.read(['row', 'name'], 3, 900); log.take(['row'], __import__('numpy').array([1, 700]));"
        "sys.exit('pandas' in sys.modules)"
    )
    folder = log.files[0].parent
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def test_lists_of_a_fixed_size_may_be_null(tmp_path: Path) -> None:
    numbers = np.arange(ROWS * 4.0)
    is_there = pl.int_range(ROWS) % 3 != 1
    frame = pl.DataFrame(
        {"vector": numbers.reshape(ROWS, 4), "matrix": numbers.reshape(ROWS, 2, 2)}
    ).select(pl.when(is_there).then(pl.all()))
    frame.write_parquet(tmp_path / "a.parquet")
    log = open_log(tmp_path / "a.parquet")
    as_lists = frame.select(
        pl.col("vector").cast(pl.List(pl.Float64)),
        pl.col("matrix").cast(pl.List(pl.List(pl.Float64))),
    )
    for start, stop in ((0, 100), (101, 105), (5000, 9000), (29_998, 30_000)):
        found = log.read(["vector", "matrix"], start, stop)
        assert found.to_dict(as_series=False) == as_lists[start:stop].to_dict(as_series=False)
    release()
