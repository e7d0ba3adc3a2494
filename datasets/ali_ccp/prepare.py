"""Turn the owner's raw Ali-CCP files into `train.parquet` and `test.parquet`.

    python datasets/ali_ccp/prepare.py RAW OUT

RAW holds `sample_skeleton_{train,test}.csv` and `common_features_{train,test}.csv`, plain, gzipped
or zipped (or in the owner's `sample_train.zip` and `sample_test.zip`). Rows keep the order of the
skeleton. Fields that can have several values become a list column of ids and one of their counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

sys.path.append(str(Path(__file__).parents[1]))
from preparing.delimited import INT, LABEL, TEXT, TEXT_OR_NULL, Column, Problems, read_table
from preparing.disk_tables import DiskTable
from preparing.outputs import Outputs, documented, run, scratch, summary
from preparing.raw_files import RawFile, require

KEY = "common_feature_index"
SKELETON: dict[str, Column] = {
    "sample_id": INT,
    "click": LABEL,
    "purchase": LABEL,
    KEY: TEXT,
    "n_features": INT,
    "features": TEXT_OR_NULL,
}
COMMON: dict[str, Column] = {KEY: TEXT, "n_features": INT, "features": TEXT_OR_NULL}


class Field(NamedTuple):
    """A field of a feature string."""

    name: str
    """Its column; that of the counts of a bag ends in `_count`."""
    is_bag: bool = False


COMMON_FIELDS = {
    "101": Field("user"),
    "121": Field("profile_category"),
    "122": Field("profile_group"),
    "124": Field("gender"),
    "125": Field("age"),
    "126": Field("consumption_1"),
    "127": Field("consumption_2"),
    "128": Field("occupation"),
    "129": Field("geography"),
    "109_14": Field("past_categories", is_bag=True),
    "110_14": Field("past_shops", is_bag=True),
    "127_14": Field("past_brands", is_bag=True),
    "150_14": Field("past_intentions", is_bag=True),
}
SKELETON_FIELDS = {
    "205": Field("item"),
    "206": Field("category"),
    "207": Field("shop"),
    "216": Field("brand"),
    "210": Field("intentions", is_bag=True),
    "508": Field("past_categories_x_category", is_bag=True),
    "509": Field("past_shops_x_shop", is_bag=True),
    "702": Field("past_brands_x_brand", is_bag=True),
    "853": Field("past_intentions_x_intentions", is_bag=True),
    "301": Field("position"),
}
# Rows, clicks and conversions, to the digits that are known.
FULL = {"train": (42_300_000, 1_600_000, 9_000), "test": (43_000_000, 1_700_000, 9_400)}
JOIN_ROWS = 8_192  # a common line has some 500 features


def prepare(raw: Path, out: Path) -> list[str]:
    """Write `out/train.parquet` and `out/test.parquet`.

    Returns:
        What was written and what was dropped, as lines of text.

    Raises:
        DataError: a file is missing, or lines do not fit (the first 20 are named).
    """
    problems = Problems()
    parts = ("train", "test")
    files = {
        (what, part): require(raw, f"{what}_{part}.csv", archives=[f"sample_{part}.zip"])
        for part in parts
        for what in ("sample_skeleton", "common_features")
    }
    with Outputs(out, parts, ("click", "purchase"), absent=["valid"]) as outputs:
        for part in parts:
            with scratch(out) as folder:
                common_file = files["common_features", part]
                common = read_common(common_file, folder / "common", problems)
                for block in read_skeleton(files["sample_skeleton", part], problems):
                    lost = block.filter(pl.Series(common.find(block[KEY]) < 0))
                    text = f"`{{{KEY}}}` is not in {common_file}."
                    problems.add_rows(files["sample_skeleton", part], lost, text)
                    for start in range(0, 0 if problems.shown else block.height, JOIN_ROWS):
                        rows = common.join(block.slice(start, JOIN_ROWS))
                        outputs.write(part, rows.drop("line"))
                problems.raise_any()
                problems.drop(f"common features that no {part} row has", common.unused)
    return [*summary(outputs, problems.dropped), *warnings(outputs)]


def read_common(file: RawFile, path: Path, problems: Problems) -> DiskTable:
    """The common features by their index."""
    table = DiskTable(path, KEY)
    for block in read_table(file, COMMON, problems, header=False):
        table.append(with_fields(file, block, COMMON_FIELDS, problems).drop("line"))
    problems.raise_any()
    table.finish()
    problems.drop(f"lines of {file.name} that repeat a {KEY}", table.repeated)
    problems.drop("of them with other features than the first (which stays)", table.differing)
    return table


def read_skeleton(file: RawFile, problems: Problems) -> Iterator[pl.DataFrame]:
    """Impressions with their own features."""
    for block in read_table(file, SKELETON, problems, header=False):
        impossible = (block["click"] == 0) & (block["purchase"] == 1)
        problems.drop(f"rows of {file.name}: purchase without click", int(impossible.sum()))
        yield with_fields(file, block.filter(~impossible), SKELETON_FIELDS, problems)


def with_fields(
    file: RawFile, block: pl.DataFrame, fields: Mapping[str, Field], problems: Problems
) -> pl.DataFrame:
    """The feature string as columns: an id each, or lists of ids and of counts.

    A string holds field, 2, id, 3, count; 1 stands between features (control characters all).
    """
    items = (
        block.select("line", text=pl.col("features").str.split("\x01"))
        .with_row_index("row")
        .explode("text")
        .filter(pl.col("text").is_not_null() & (pl.col("text") != ""))
    )
    field = pl.col("text").str.split_exact("\x02", 1).struct
    value = field[1].str.split_exact("\x03", 1).struct
    items = items.with_columns(
        field=field[0],
        id=value[0].cast(pl.Int64, strict=False),
        count=value[1].cast(pl.Float32, strict=False),
    )
    bad = items["id"].is_null() | ~items["count"].is_finite().fill_null(value=False)
    shown = items.filter(bad).with_columns(
        pl.col("text").str.replace_many(["\x01", "\x02", "\x03"], ["|", ":", "="]).str.slice(0, 80)
    )
    problems.add_rows(file, shown, "feature `{text}`, expected field:id=count.")
    lengths = np.bincount(items["row"].to_numpy(), minlength=block.height)
    wrong = int((lengths != block["n_features"].to_numpy()).sum())
    where = f"of {file.name}"
    problems.drop(f"lines {where} that count their features wrongly (all were kept)", wrong)
    others = items.filter(~pl.col("field").is_in(list(fields)))["field"].value_counts()
    for name, count in others.sort("field").iter_rows():
        problems.drop(f"features {where} of the unknown field `{str(name)[:20]}`", count)
    by_field = items.filter(~bad).partition_by("field", as_dict=True, maintain_order=True)
    columns: list[pl.Series] = []
    for code, (name, is_bag) in fields.items():
        part = by_field.get((code,), items.clear())
        if is_bag:
            columns += as_lists(part, name, block.height)
        else:
            first = part.unique("row", keep="first", maintain_order=True)
            again = part.height - first.height
            problems.drop(f"values {where} of `{name}` after a row's first one", again)
            rows = pl.DataFrame({"row": pl.Series(range(block.height), dtype=pl.UInt32)})
            found = rows.join(first, on="row", how="left", maintain_order="left")
            columns.append(found["id"].alias(name))
    return block.drop("n_features", "features").hstack(columns)


def as_lists(part: pl.DataFrame, name: str, rows: int) -> list[pl.Series]:
    """The ids and the counts of each row."""
    lengths = np.bincount(part["row"].to_numpy(), minlength=rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    lists = []
    for column, alias in (("id", name), ("count", f"{name}_count")):
        array = pa.LargeListArray.from_arrays(offsets, part[column].to_arrow())
        series = pl.from_arrow(array)
        assert isinstance(series, pl.Series)
        lists.append(series.alias(alias))
    return lists


def warnings(outputs: Outputs) -> list[str]:
    """Where the counts are not the published ones."""
    lines = []
    for part, counts in FULL.items():
        lines += documented(f"rows in {part}", outputs.rows[part], counts[0], digits=3)
        if outputs.rows[part] > 0.5 * counts[0]:
            clicks, purchases = outputs.positives[part].values()
            lines += documented(f"clicks in {part}", clicks, counts[1], digits=2)
            lines += documented(f"purchases in {part}", purchases, counts[2], digits=2)
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Ali-CCP: raw files to Parquet.")
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder with the owner's files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the Parquet files")
    options = parser.parse_args(arguments)
    return run(lambda: prepare(options.raw, options.out))


if __name__ == "__main__":
    sys.exit(main())
