"""Parquet files of a log: found, opened, and made to agree on their columns."""

from __future__ import annotations

import glob as globbing
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recmtl._checks import suggest
from recmtl.data.dtypes import common, normal
from recmtl.errors import DataError

__all__ = ["LogFile", "find_files", "first_line", "merge_schemas", "open_file", "scan_file"]


class LogFile(NamedTuple):
    """A file and what its footer says."""

    path: Path
    schema: dict[str, pl.DataType]
    group_rows: tuple[int, ...]
    digest: str

    @property
    def num_rows(self) -> int:
        """Rows of all row groups."""
        return sum(self.group_rows)


def find_files(path: Path) -> list[Path]:
    """The files that a path names: itself, what is below a folder, or what a glob matches."""
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(
            f for f in path.rglob("*.parquet") if f.is_file() and not _hidden(f.relative_to(path))
        )
        if not found:
            raise DataError(f"{path}: no `*.parquet` file is in this folder.")
        return found
    if globbing.has_magic(str(path)):
        found = sorted(
            f for f in map(Path, globbing.glob(str(path), recursive=True)) if f.is_file()
        )
        if not found:
            raise DataError(f"{path}: no file matches this glob.")
        return found
    near = (
        suggest(path.name, [f.name for f in path.parent.iterdir()]) if path.parent.is_dir() else ""
    )
    raise DataError(f"{path}: there is no such file or folder.{near}")


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def open_file(path: Path) -> LogFile:
    """Read a file's footer.

    Raises:
        DataError: a file that is empty, truncated, corrupt or no Parquet.
    """
    try:
        with path.open("rb") as file:
            head, size = file.read(4), file.seek(0, 2)
            if size < 12:
                raise DataError(
                    f"{path}: the file is empty or truncated ({size} bytes): no Parquet."
                )
            file.seek(size - 8)
            tail = file.read(8)
            footer = min(int.from_bytes(tail[:4], "little") + 8, size)
            file.seek(size - footer)
            digest = hashlib.sha256(file.read(footer)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}).") from error
    if tail[4:] != b"PAR1":
        what = (
            "a truncated Parquet file: its end is missing. Copy it again."
            if head == b"PAR1"
            else "no Parquet file."
        )
        raise DataError(f"{path}: this is {what}")
    try:
        metadata = pq.read_metadata(path)
        schema = {name: normal(dtype) for name, dtype in scan_file(path).collect_schema().items()}
    except (
        pa.ArrowException,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
    ) as error:
        raise DataError(f"{path}: the Parquet footer is corrupt ({first_line(error)}).") from error
    if metadata.num_rows == 0:
        raise DataError(f"{path}: the file has no rows. Delete it, or write rows to it.")
    group_rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return LogFile(path, schema, group_rows, f"{size} {digest}")


def merge_schemas(parts: Sequence[LogFile]) -> pl.Schema:
    """The columns of all files, in the first one's order."""
    first = parts[0]
    merged = dict(first.schema)
    problems: list[str] = []
    for part in parts[1:]:
        for one, other in ((first, part), (part, first)):
            problems += [
                f"{other.path}: column `{name}` is missing, {one.path} has it."
                for name in one.schema.keys() - other.schema.keys()
            ]
        for name in first.schema.keys() & part.schema.keys():
            dtype = common(merged[name], part.schema[name])
            if dtype is None:
                problems.append(
                    f"{part.path}: column `{name}` is {part.schema[name]}, in {first.path} it is "
                    f"{first.schema[name]}. "
                    "Write it in one type."
                )
            else:
                merged[name] = dtype
    if problems:
        raise DataError.all_of(sorted(set(problems)))
    return pl.Schema(merged)


def scan_file(path: Path) -> pl.LazyFrame:
    """One file, lazily; brackets in its name are no glob."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
