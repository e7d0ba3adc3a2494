"""Comma separated files, read a block at a time into typed columns."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl
from preparing.raw_files import RawFile

from recmtl.errors import DataError

BLOCK_BYTES = 4 << 20
"""What is read at once; no line may be longer."""
MAX_PROBLEMS = 20
NULLS = ["", "\\N"]  # nothing, and what MySQL writes for it


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of a raw file must hold."""

    dtype: type[pl.DataType]
    nullable: bool = False
    """Whether an empty field is a null, and not a problem."""
    label: bool = False
    """Whether only 0 and 1 are possible."""

    @property
    def words(self) -> str:
        """The same, for messages."""
        kind = {pl.Int64: "an integer", pl.Float64: "a number", pl.String: "a value"}[self.dtype]
        return "0 or 1" if self.label else kind


INT = Column(pl.Int64)
INT_OR_NULL = Column(pl.Int64, nullable=True)
NUMBER_OR_NULL = Column(pl.Float64, nullable=True)
TEXT = Column(pl.String)
TEXT_OR_NULL = Column(pl.String, nullable=True)
LABEL = Column(pl.Int64, label=True)


class Problems:
    """Lines that do not fit: the first 20 are named, the others counted.

    Attributes:
        dropped: how many lines were left out, by reason.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.shown: list[str] = []
        self.hidden = 0
        self.dropped: dict[str, int] = {}

    def add(self, file: RawFile, line: int, text: str) -> None:
        """A line that does not fit."""
        if len(self.shown) < MAX_PROBLEMS:
            self.shown.append(f"{file}:{line}: {text}")
        else:
            self.hidden += 1

    def add_rows(self, file: RawFile, rows: pl.DataFrame, text: str) -> None:
        """Rows that do not fit; `text` may name their columns in braces."""
        named = rows.head(max(0, MAX_PROBLEMS - len(self.shown)))
        for row in named.iter_rows(named=True):
            self.add(file, row["line"], text.format(**row))
        self.hidden += rows.height - named.height

    def drop(self, reason: str, count: int = 1) -> None:
        """Count lines that are left out."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def raise_any(self) -> None:
        """Raise one error about all of them.

        Raises:
            DataError: there is a problem.
        """
        more = [f"{self.hidden:,} more problems like these."] if self.hidden else []
        if self.shown:
            raise DataError.all_of([*self.shown, *more])


def read_table(
    file: RawFile,
    columns: Mapping[str, Column],
    problems: Problems,
    *,
    header: bool,
    quoted: bool = False,
) -> Iterator[pl.DataFrame]:
    """The rows of a comma separated file in blocks, in order, with `line`, their line numbers.

    Lines that do not fit go to `problems` and not into a block; blank lines are dropped and
    counted. A line is a row: values hold no line breaks.

    Args:
        file: what to read.
        columns: with a header, the columns to read, in any order; without, all of them in order.
        problems: what takes the lines that do not fit.
        header: whether the first line names the columns.
        quoted: whether values may stand in double quotes.

    Raises:
        DataError: the file cannot be read, is no text, has a line that never ends, no rows, or
            lacks columns.
    """
    names = None if header else list(columns)
    rows = 0
    for first_line, data in _blocks(file):
        lines = _lines(file, first_line, data)
        if names is None:
            names = _header(file, lines["text"][0], columns)
            lines = lines[1:]
        blank = lines["text"].str.strip_chars() == ""
        problems.drop(f"blank lines of {file.name}", int(blank.sum()))
        lines = lines.filter(~blank)
        rows += lines.height
        for part in _split(file, lines, names, problems, quoted=quoted):
            frame = _typed(file, part.select("line", *columns), columns, problems)
            if frame.height:
                yield frame
    if not rows:
        raise DataError(f"{file}: no rows.")


def _blocks(file: RawFile) -> Iterator[tuple[int, bytes]]:
    """Whole lines, and the number of the first one."""
    line, rest = 1, b""
    try:
        with file.open() as stream:
            while block := stream.read(BLOCK_BYTES):
                end = block.rfind(b"\n") + 1
                if end:
                    whole = rest + block[:end]
                    yield line, whole
                    line, rest = line + whole.count(b"\n"), block[end:]
                else:
                    rest += block
                if len(rest) > BLOCK_BYTES:
                    raise DataError(
                        f"{file}:{line}: the line is longer than {BLOCK_BYTES:,} bytes; this is "
                        "not the owner's file, or its line breaks are lost."
                    )
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file}: cannot be read to its end ({error}); get the file again."
        ) from error
    if rest:
        yield line, rest + b"\n"


def _lines(file: RawFile, first: int, data: bytes) -> pl.DataFrame:
    """Lines with their numbers, without their ends."""
    if first == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + data.count(b"\n", 0, error.start)
        raise DataError(f"{file}:{line}: this is not UTF-8 text; get the file again.") from error
    frame = pl.DataFrame({"text": text.split("\n")[:-1]}, schema={"text": pl.String})
    return frame.with_columns(pl.col("text").str.strip_suffix("\r")).with_row_index("line", first)


def _header(file: RawFile, text: str, columns: Mapping[str, Column]) -> list[str]:
    names = [name.strip().strip('"') for name in text.split(",")]
    missing = [name for name in columns if name not in names]
    if missing or len(set(names)) < len(names):
        what = f"lacks the columns {', '.join(f'`{m}`' for m in missing)}" if missing else "repeats"
        raise DataError(f"{file}:1: the header {what}; it is `{text[:200]}`.")
    return names


def _split(
    file: RawFile, lines: pl.DataFrame, names: list[str], problems: Problems, *, quoted: bool
) -> Iterator[pl.DataFrame]:
    """Fields as strings; lines with quotes are taken apart one by one."""
    has_quotes = lines["text"].str.contains('"', literal=True)
    parts = [(lines, False)]
    if quoted and has_quotes.any():
        # Stretches with and without quotes would lose the order: such a block goes the slow way.
        parts = [(lines, True)]
    for part, slow in parts:
        if slow:
            rows = [_fields(text) for text in part["text"]]
            counts = pl.Series([len(row) for row in rows], dtype=pl.UInt32)
        else:
            counts = part["text"].str.count_matches(",", literal=True) + 1
        wrong = counts != len(names)
        problems.add_rows(
            file,
            part.select("line", count=counts).filter(wrong),
            f"{{count}} columns, expected {len(names)}.",
        )
        good = part["line"].filter(~wrong)
        if slow:
            fields = pl.DataFrame(
                [row for row in rows if len(row) == len(names)],
                schema=dict.fromkeys(names, pl.String),
                orient="row",
            ).with_columns(pl.all().replace("", None))
        elif good.len():
            text = part["text"].filter(~wrong).str.join("\n").item().encode()
            fields = pl.read_csv(
                io.BytesIO(text),
                has_header=False,
                new_columns=names,
                schema_overrides=dict.fromkeys(names, pl.String),
                infer_schema=False,
                quote_char=None,
            )
        else:
            continue
        yield fields.with_columns(good.cast(pl.Int64).alias("line"))


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        return []


def _typed(
    file: RawFile, text: pl.DataFrame, columns: Mapping[str, Column], problems: Problems
) -> pl.DataFrame:
    """Columns in their types; rows that do not fit are left out."""
    text = text.with_columns(pl.col(list(columns)).str.strip_chars().replace(NULLS, None))
    frame = text.with_columns(
        pl.col(name).cast(column.dtype, strict=False) for name, column in columns.items()
    )
    bad = pl.repeat(value=False, n=frame.height, eager=True)
    for name, column in columns.items():
        wrong = frame[name].is_null() & text[name].is_not_null()
        if column.dtype is pl.Int64 and wrong.any():
            frame = frame.with_columns(frame[name].fill_null(_integral(text[name])))
            wrong = frame[name].is_null() & text[name].is_not_null()
        if not column.nullable:
            wrong |= frame[name].is_null()
        if column.label:
            wrong |= ~frame[name].is_in([0, 1]).fill_null(value=False)
        if wrong.any():
            shown = text.select("line", value=pl.col(name).fill_null("").str.slice(0, 80))
            problems.add_rows(
                file, shown.filter(wrong), f"`{name}` is `{{value}}`, expected {column.words}."
            )
            bad |= wrong
    labels = [name for name, column in columns.items() if column.label]
    return frame.filter(~bad).with_columns(pl.col(labels).cast(pl.Int8))


def _integral(text: pl.Series) -> pl.Series:
    """Integers that are written with a fraction of zero, as `17200.0`."""
    number = text.cast(pl.Float64, strict=False)
    exact = (number == number.floor()) & (number.abs() < 2**53)
    return number.set(~exact.fill_null(value=False), None).cast(pl.Int64, strict=False)
