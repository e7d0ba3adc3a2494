"""Turn the owner's raw Census-Income (KDD) files into `train.parquet` and `test.parquet`.

    python datasets/census_income/prepare.py RAW OUT

RAW holds `census-income.data` and `census-income.test`, plain or gzipped. Rows keep the order of
their file. Values are stripped, `?` becomes null, and three columns are added: `row` (the row's
number in its file), and the labels `income` (above 50,000) and `never_married`.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from recmtl._files import atomic_path, in_words
from recmtl.errors import DataError, RecMTLError

# The owner's columns in the owner's order; True marks the integers. The last one is the label.
COLUMNS = {
    "age": True,
    "class_worker": False,
    "det_ind_code": True,
    "det_occ_code": True,
    "education": False,
    "wage_per_hour": True,
    "hs_college": False,
    "marital_stat": False,
    "major_ind_code": False,
    "major_occ_code": False,
    "race": False,
    "hisp_origin": False,
    "sex": False,
    "union_member": False,
    "unemp_reason": False,
    "full_or_part_emp": False,
    "capital_gains": True,
    "capital_losses": True,
    "stock_dividends": True,
    "tax_filer_stat": False,
    "region_prev_res": False,
    "state_prev_res": False,
    "det_hh_fam_stat": False,
    "det_hh_summ": False,
    "instance_weight": False,
    "mig_chg_msa": False,
    "mig_chg_reg": False,
    "mig_move_reg": False,
    "mig_same": False,
    "mig_prev_sunbelt": False,
    "num_emp": True,
    "fam_under_18": False,
    "country_father": False,
    "country_mother": False,
    "country_self": False,
    "citizenship": False,
    "own_or_self": True,
    "vet_question": False,
    "vet_benefits": True,
    "weeks_worked": True,
    "year": True,
    "income": False,
}
INCOMES = {"- 50000": 0, "50000+": 1}
NEVER_MARRIED = "Never married"
FILES = {"train": "census-income.data", "test": "census-income.test"}
CHUNK_ROWS = 50_000
MAX_PROBLEMS = 20


class Counts(NamedTuple):
    """What one raw file held."""

    rows: int
    blank_lines: int
    nulls: int
    income: int
    never_married: int


class Line(NamedTuple):
    """One row of a raw file."""

    number: int
    values: list[str]


def prepare(raw: Path, out: Path) -> dict[str, Counts]:
    """Write `out/train.parquet` and `out/test.parquet`.

    Both files are checked before one is written.

    Raises:
        DataError: a raw file is missing or empty, or has lines that do not fit; up to 20 of
            them are named.
    """
    sources = {name: find_raw(raw, file) for name, file in FILES.items()}
    parsed = {name: parse(source) for name, source in sources.items()}
    for name, (frame, _) in parsed.items():
        with atomic_path(out / f"{name}.parquet") as temporary:
            frame.write_parquet(temporary, row_group_size=CHUNK_ROWS)
    return {name: counts for name, (_, counts) in parsed.items()}


def find_raw(raw: Path, file: str) -> Path:
    """The owner's file, or its gzipped form."""
    for path in (raw / file, raw / f"{file}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{raw}: neither `{file}` nor `{file}.gz` is there; get the files from the UCI archive."
    )


def parse(path: Path) -> tuple[pl.DataFrame, Counts]:
    """Read one raw file, in chunks, into typed columns."""
    problems: list[str] = []
    chunks: list[pl.DataFrame] = []
    lines: list[Line] = []
    blank = 0
    try:
        for line in read_lines(path):
            if line.values == [""]:
                blank += 1
            elif len(line.values) != len(COLUMNS):
                problems.append(
                    f"{path}:{line.number}: {len(line.values)} columns, expected {len(COLUMNS)}."
                )
            else:
                lines.append(line)
            if len(lines) == CHUNK_ROWS:
                chunks.append(typed(path, lines, problems))
                lines = []
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read to its end ({error}); get the file again."
        ) from error
    if lines:
        chunks.append(typed(path, lines, problems))
    if problems:
        shown, hidden = problems[:MAX_PROBLEMS], len(problems) - MAX_PROBLEMS
        raise DataError.all_of(
            [*shown, *([f"{path}: {hidden} more lines do not fit."] if hidden > 0 else [])]
        )
    if not chunks:
        raise DataError(f"{path}: no rows.")
    frame = pl.concat(chunks).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    counts = Counts(
        rows=frame.height,
        blank_lines=blank,
        nulls=sum(frame.null_count().row(0)),
        income=int(frame["income"].sum()),
        never_married=int(frame["never_married"].sum()),
    )
    return frame, counts


def read_lines(path: Path) -> Iterator[Line]:
    """The stripped values of each line.

    The owner writes no quotes, so every comma parts two values.
    """
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as file
    ):
        for number, text in enumerate(file, start=1):
            yield Line(number, [value.strip() for value in text.split(",")])


def typed(path: Path, lines: list[Line], problems: list[str]) -> pl.DataFrame:
    """Rows as typed columns with both labels; appends to `problems` what does not fit."""
    text = pl.DataFrame(
        [line.values for line in lines], schema=dict.fromkeys(COLUMNS, pl.String), orient="row"
    )
    text = text.with_columns(pl.all().replace("?", None)).with_columns(
        pl.col("income").str.strip_chars_end(".")
    )
    integers = [name for name, is_integer in COLUMNS.items() if is_integer]
    frame = text.with_columns(
        pl.col(integers).cast(pl.Int64, strict=False),
        pl.col("instance_weight").cast(pl.Float64, strict=False),
        pl.col("income").replace_strict(INCOMES, default=None, return_dtype=pl.Int8),
        (pl.col("marital_stat") == NEVER_MARRIED).cast(pl.Int8).alias("never_married"),
    )
    expected = dict.fromkeys(integers, "an integer") | {
        "instance_weight": "a number",
        "income": "`- 50000.` or `50000+.`",
        "marital_stat": "a value (it is the source of the label `never_married`)",
    }
    for name, what in expected.items():
        needed = name in ("income", "marital_stat")
        wrong = frame[name].is_null() & (text[name].is_not_null() | needed)
        column = frame.columns.index(name)
        for i in wrong.arg_true():
            number, values = lines[i]
            problems.append(f"{path}:{number}: `{name}` is `{values[column]}`, expected {what}.")
    return frame


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Census-Income (KDD): raw files to Parquet.")
    parser.add_argument(
        "raw",
        type=Path,
        metavar="RAW",
        help="folder with census-income.data and census-income.test",
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder for train.parquet and test.parquet"
    )
    options = parser.parse_args(arguments)
    try:
        for name, counts in prepare(options.raw, options.out).items():
            sys.stdout.write(
                f"{options.out / f'{name}.parquet'}: {counts.rows:,} rows "
                f"(income {counts.income:,}, never_married {counts.never_married:,}); "
                f"dropped {counts.blank_lines:,} blank lines; "
                f"{counts.nulls:,} values `?` became null\n"
            )
    except RecMTLError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{in_words(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
