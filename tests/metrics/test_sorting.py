"""Spooled columns and sorted runs: the same rows, however little memory there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.errors import RecMTLError
from recmtl.metrics.sorting import Sorter
from recmtl.metrics.spool import BLOCK_ROWS, Spool


@given(
    st.lists(st.integers(0, 40), max_size=12),
    st.sampled_from([0, 100, None]),
    st.sampled_from([None, 2]),
)
def test_a_column_gives_back_what_was_appended(
    sizes: list[int], memory: int | None, width: int | None
) -> None:
    rng = np.random.default_rng(len(sizes))
    spool = Spool(memory)
    column, beside = spool.column(np.float32, width), spool.column(np.int8)
    parts = [rng.random((size, width) if width else size, np.float32) for size in sizes]
    for part in parts:
        column.append(part)
        beside.append(np.ones(len(part)))
    rows = np.concatenate([*parts, np.empty((0, width) if width else 0, np.float32)])
    assert len(column) == len(beside) == len(rows)
    for start in range(0, len(rows), 7):
        np.testing.assert_array_equal(column.read(start, len(rows)), rows[start:])
    np.testing.assert_array_equal(np.concatenate([*column.blocks(5), rows[:0]]), rows)
    spool.close()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.uint64, np.complex128])
@pytest.mark.parametrize("distinct", [3, 5_000, 10**9])
def test_runs_are_merged_into_one_order(
    weighted: bool, dtype: type[np.generic], distinct: int
) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, distinct, 200_000)
    keys = numbers // 7 + 1j * (numbers % 7) if dtype is np.complex128 else numbers.astype(dtype)
    values = rng.random(len(keys), np.float32) if weighted else None
    sorter = Sorter(len(keys), dtype, np.float32 if weighted else None, memory=100_000)
    for start in range(0, len(keys), 33_333):
        part = slice(start, start + 33_333)
        sorter.add(keys[part], None if values is None else values[part])
    blocks = list(sorter.blocks())
    assert [len(block.keys) for block in blocks[:-1]] == [BLOCK_ROWS] * 3
    found = np.concatenate([block.keys for block in blocks])
    np.testing.assert_array_equal(found, np.sort(keys))
    if values is not None:
        moved = np.concatenate([block.values for block in blocks])
        order = np.lexsort((values, keys))
        np.testing.assert_array_equal(moved[np.lexsort((moved, found))], values[order])


def test_a_folder_that_takes_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(RecMTLError, match=r"gone: .* cannot be written to \(No such file.*TMPDIR"):
        Spool(memory=0).column(np.int8).append(np.ones(1))


def test_nothing_has_a_name_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(memory=0)
    column = spool.column(np.int64)
    column.append(np.arange(100_000))
    assert list(tmp_path.iterdir()) == []
    assert column.read(99_998, 100_000).tolist() == [99_998, 99_999]
    spool.close()
