"""Turn the owner's raw AliExpress files of one country into `train.parquet` and `test.parquet`.

    python datasets/aliexpress/prepare.py RAW OUT [--country NL]

RAW holds the owner's `aliexpress_NL_datasets.zip`, or what is in it: `nl_item_{train,test}` and
`nl_user_{train,test}`, each as `.csv`, gzipped or zipped. Items and users are joined on the search;
rows keep the order of the item files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import polars as pl

sys.path.append(str(Path(__file__).parents[1]))
from preparing.delimited import (
    INT_OR_NULL,
    NUMBER_OR_NULL,
    TEXT,
    Column,
    Problems,
    read_table,
)
from preparing.disk_tables import DiskTable
from preparing.outputs import Outputs, documented, run, scratch, summary
from preparing.raw_files import RawFile, require

COUNTRIES = ("NL", "ES", "FR", "US", "RU")
ITEM_CATEGORIES = (19, 34, 35, 36, 40, 41, 42)
USER_CATEGORIES = (*range(2, 9), 32, 33)
CATEGORICAL = [
    *(f"user_{i}" for i in USER_CATEGORIES),
    *(f"item_{i}" for i in ITEM_CATEGORIES),
]
NUMERICAL = [
    *(f"user_{i}" for i in range(9, 32)),
    *(f"item_{i}" for i in range(2, 49) if i not in ITEM_CATEGORIES),
]
# The names under which other packages publish the joined columns.
NAMES = {
    **{name: f"categorical_{i}" for i, name in enumerate(CATEGORICAL, start=1)},
    **{name: f"numerical_{i}" for i, name in enumerate(NUMERICAL, start=1)},
}
OUTCOME = Column(pl.Int64)
# Rows of train and test; only the Netherlands' are known to the last digit.
FULL = {
    "NL": ((12_157_894, 8), (5_559_301, 7)),
    "US": ((20_000_000, 2), (7_500_000, 2)),
    "FR": ((18_200_000, 3), (8_800_000, 2)),
    "ES": ((22_300_000, 3), (9_300_000, 2)),
}


def columns_of(side: str, count: int) -> dict[str, Column]:
    """The columns of an item or user file, in order."""
    columns = {"search_id": TEXT}
    for i in range(2, count + 1):
        name = f"{side}_{i}"
        columns[name] = INT_OR_NULL if name in CATEGORICAL else NUMBER_OR_NULL
    return columns


ITEM = {**columns_of("item", 48), "label": OUTCOME}
USER = columns_of("user", 33)


def prepare(raw: Path, out: Path, country: str = "NL") -> list[str]:
    """Write `out/train.parquet` and `out/test.parquet`.

    Returns:
        What was written and what was dropped, as lines of text.

    Raises:
        DataError: a file is missing, or lines do not fit (the first 20 are named).
    """
    problems, parts = Problems(), ("train", "test")
    archive = f"aliexpress_{country}_datasets.zip"
    files = {
        (side, part): require(raw, f"{country.lower()}_{side}_{part}.csv", archives=[archive])
        for part in parts
        for side in ("item", "user")
    }
    with Outputs(out, parts, ("click", "conversion"), absent=["valid"]) as outputs:
        for part in parts:
            items = files["item", part]
            with scratch(out) as folder:
                users = read_users(files["user", part], folder / "users", problems)
                for block in read_table(items, ITEM, problems, header=False):
                    check_labels(items, block, problems)
                    known = pl.Series(users.find(block["search_id"]) >= 0)
                    reason = f"rows of {items.name} whose search_id has no user"
                    problems.drop(reason, int((~known).sum()))
                    if not problems.shown:
                        outputs.write(part, joined(block.filter(known), users))
                problems.raise_any()
                problems.drop(f"users of {part} without an impression", users.unused)
    return [*summary(outputs, problems.dropped), *warnings(country, outputs)]


def read_users(file: RawFile, path: Path, problems: Problems) -> DiskTable:
    """The user columns by search_id."""
    table = DiskTable(path, "search_id")
    for block in read_table(file, USER, problems, header=False):
        table.append(block.drop("line"))
    problems.raise_any()
    table.finish()
    problems.drop(f"lines of {file.name} that repeat a search_id", table.repeated)
    problems.drop("of them with other values than the first (which stays)", table.differing)
    return table


def check_labels(file: RawFile, block: pl.DataFrame, problems: Problems) -> None:
    """0 is nothing, 1 a click, 2 a click and a conversion."""
    wrong = block.filter(~pl.col("label").is_in([0, 1, 2]))
    problems.add_rows(file, wrong, "the label is `{label}`, expected 0, 1 or 2.")


def joined(block: pl.DataFrame, users: DiskTable) -> pl.DataFrame:
    """Rows under the published names, with both labels."""
    return users.join(block).select(
        "search_id",
        *(pl.col(old).alias(new) for old, new in NAMES.items()),
        (pl.col("label") >= 1).cast(pl.Int8).alias("click"),
        (pl.col("label") == 2).cast(pl.Int8).alias("conversion"),
    )


def warnings(country: str, outputs: Outputs) -> list[str]:
    """Where the counts are not the published ones."""
    return [
        line
        for part, (rows, digits) in zip(("train", "test"), FULL.get(country, ()), strict=False)
        for line in documented(f"rows in {part}", outputs.rows[part], rows, digits=digits)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="AliExpress: raw files to Parquet.")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with the owner's files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the Parquet files")
    parser.add_argument(
        "--country", choices=COUNTRIES, default="NL", help="NL (the default), ES, FR, US or RU"
    )
    options = parser.parse_args(arguments)
    return run(lambda: prepare(options.raw, options.out, options.country))


if __name__ == "__main__":
    sys.exit(main())
