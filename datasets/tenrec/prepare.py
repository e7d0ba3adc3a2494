"""Turn one of Tenrec's video files into `train.parquet`, `valid.parquet` and `test.parquet`.

    python datasets/tenrec/prepare.py RAW OUT [--file QK-video.csv] [--seed 0]

RAW holds the file (plain, gzipped or zipped) or the owner's `Tenrec.zip`. There are no timestamps:
80 % of the rows train, 10 % validate and 10 % test, by a stable hash of the row's number. In each
part rows keep the order of the file. `--file ctr_data_1M.csv` adds `history`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl

sys.path.append(str(Path(__file__).parents[1]))
from preparing.delimited import INT, INT_OR_NULL, LABEL, Column, Problems, read_table
from preparing.outputs import Outputs, documented, run, summary
from preparing.raw_files import require

from recmtl.data.hashing import combine, splitmix64

TASKS = ("click", "like", "share", "follow")
COLUMNS: dict[str, Column] = {
    **dict.fromkeys(("user_id", "item_id"), INT),
    **dict.fromkeys(TASKS, LABEL),
    **dict.fromkeys(("video_category", "watching_times", "gender", "age"), INT_OR_NULL),
}
HISTORY: dict[str, Column] = dict.fromkeys((f"hist_{i}" for i in range(1, 11)), INT_OR_NULL)
WITH_HISTORY = "ctr_data_1M.csv"
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
FULL = {WITH_HISTORY: 120_342_306}  # rows, counted by a third party


def prepare(raw: Path, out: Path, file: str = "QK-video.csv", seed: int = 0) -> list[str]:
    """Write `out/train.parquet`, `out/valid.parquet` and `out/test.parquet`.

    Returns:
        What was written and what was dropped, as lines of text.

    Raises:
        DataError: the file is missing, or lines do not fit (the first 20 are named).
    """
    source = require(raw, file, archives=["Tenrec.zip"])
    has_history = file == WITH_HISTORY
    columns = {**COLUMNS, **HISTORY} if has_history else COLUMNS
    problems, row = Problems(), 0
    with Outputs(out, tuple(SHARES), TASKS) as outputs:
        for block in read_table(source, columns, problems, header=True):
            if problems.shown:
                continue
            parts = part_of(np.arange(row, row + block.height), seed)
            row += block.height
            missing = int(block["video_category"].null_count())
            problems.drop("values of `video_category` became null", missing)
            frame = block.drop("line").with_columns(part=pl.Series(parts))
            if has_history:
                frame = with_history(frame)
            for (name,), some in frame.group_by("part", maintain_order=True):
                outputs.write(str(name), some.drop("part"))
        problems.raise_any()
    expected = FULL.get(file)
    warnings = documented(f"rows in {file}", row, expected, digits=9) if expected else []
    return [*summary(outputs, problems.dropped), *warnings]


def part_of(rows: np.ndarray, seed: int) -> np.ndarray:
    """The part of each row number: a function of it and the seed, and of nothing else."""
    hashes = splitmix64(rows.astype(np.int64).view(np.uint64) ^ np.uint64(combine(0x74656E, seed)))
    place = hashes.astype(np.float64) / 2.0**64
    borders = np.cumsum(list(SHARES.values()))[:-1]
    return np.array(list(SHARES))[np.searchsorted(borders, place, side="right")]


def with_history(frame: pl.DataFrame) -> pl.DataFrame:
    """The ten columns as one list, without the zeros that fill it up."""
    items = pl.concat_list(pl.col(list(HISTORY)).fill_null(0))
    return frame.with_columns(history=items.list.filter(pl.element() != 0)).drop(list(HISTORY))


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Tenrec: a raw video file to Parquet.")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with the owner's files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the Parquet files")
    parser.add_argument(
        "--file",
        default="QK-video.csv",
        help="QK-video.csv (default), QB-video.csv or " + WITH_HISTORY,
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default 0)")
    options = parser.parse_args(arguments)
    return run(lambda: prepare(options.raw, options.out, options.file, options.seed))


if __name__ == "__main__":
    sys.exit(main())
