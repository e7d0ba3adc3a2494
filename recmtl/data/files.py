"""Files of a log: found by a path, and the footer of a Parquet file."""

from __future__ import annotations

import glob as globbing
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recmtl._checks import suggest
from recmtl._files import sha256_of
from recmtl.data.dtypes import normal
from recmtl.data.forward import arrow_types, read_forward
from recmtl.data.stamp import Stamp, is_settled, stamp_of
from recmtl.errors import DataError

__all__ = ["LogFile", "ParquetFile", "find_files", "first_line", "is_csv", "open_parquet"]

_SMALL_FILE_ROWS = 1 << 12  # read at once
_PACKED = (".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst", ".csv.zip")


class LogFile(Protocol):
    """A file whose rows can be read by their numbers."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Its columns, in the types in which they are read."""

    @property
    def group_rows(self) -> tuple[int, ...]:
        """Rows of each piece that is best read together."""

    @property
    def digest(self) -> str:
        """What its content is known by."""

    def read(self, columns: Sequence[str], low: int, high: int) -> pl.DataFrame:
        """Rows `low` to `high` (exclusive) of the file."""

    def scan(self) -> pl.LazyFrame:
        """All rows, lazily."""


class ParquetFile(NamedTuple):
    """A Parquet file and what its footer says."""

    path: Path
    schema: dict[str, pl.DataType]
    group_rows: tuple[int, ...]

    @property
    def digest(self) -> str:
        """sha256 of all bytes: a file of the same size and footer can hold other rows.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            status = self.path.stat()
            digest = _remembered if is_settled(status) else _sha256
            return digest(self.path, stamp_of(status))
        except OSError as error:
            raise DataError(f"{self.path}: the file cannot be read ({error.strerror}).") from error

    def read(self, columns: Sequence[str], low: int, high: int) -> pl.DataFrame:
        """Rows `low` to `high` (exclusive); of the row groups around them only these are read.

        Rows that follow those of the last read are best: see `recmtl.data.forward`.
        """
        return self.take(columns, low, high)

    def take(
        self,
        columns: Sequence[str],
        low: int,
        high: int,
        offsets: NDArray[np.int64] | None = None,
    ) -> pl.DataFrame:
        """Of the rows `low` to `high` (exclusive) those at rising `offsets`, or all."""
        try:
            if self._is_read_forward(columns, low, high, offsets is None):
                return read_forward(self.path, columns, low, high, offsets)
            frame = self.scan().select(columns).slice(low, high - low).collect()
            return frame if offsets is None else frame[offsets]
        except (
            pa.ArrowException,
            pl.exceptions.PolarsError,
            pl.exceptions.PanicException,
            OSError,
        ) as error:
            raise DataError(
                f"{self.path}: the file is corrupt or changed while it was read "
                f"({first_line(error)})."
            ) from error

    def _is_read_forward(self, columns: Sequence[str], low: int, high: int, is_all: bool) -> bool:
        """Whether rows are best read page by page: not a small file, nor whole row groups.

        Of those polars makes columns in half the time.
        """
        ends = [0, *accumulate(self.group_rows)]
        whole = is_all and low in ends and high in ends
        return ends[-1] > _SMALL_FILE_ROWS and not whole and self._is_same_in_arrow(columns)

    def _is_same_in_arrow(self, columns: Sequence[str]) -> bool:
        types = arrow_types(self.path)
        return all(normal(types[column]) == self.schema[column] for column in columns)

    def scan(self) -> pl.LazyFrame:
        """All rows, lazily; brackets in the file's name are no glob."""
        return pl.scan_parquet(self.path, glob=False, hive_partitioning=False)


def find_files(path: Path) -> list[Path]:
    """The files that a path names: itself, what is below a folder, or what a glob matches.

    Raises:
        DataError: there is none, or files of both kinds, or packed ones.
    """
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = _in_folder(path)
    elif globbing.has_magic(str(path)):
        found = _of_glob(path)
    else:
        siblings = [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: there is no such file or folder.{suggest(path.name, siblings)}")
    _require_one_kind(path, found)
    return found


def is_csv(path: Path) -> bool:
    """Whether a file is read as CSV: its name says so."""
    return path.suffix.lower() == ".csv"


def _in_folder(path: Path) -> list[Path]:
    endings = (".parquet", ".csv", *_PACKED)
    found = sorted(
        file
        for file in path.rglob("*")
        if file.name.lower().endswith(endings)
        and not _hidden(file.relative_to(path))
        and file.is_file()
    )
    if not found:
        raise DataError(f"{path}: no `*.parquet` and no `*.csv` file is in this folder.")
    return found


def _of_glob(path: Path) -> list[Path]:
    """What the glob matches, without names like `_SUCCESS` that only its wildcards reach."""
    parts = {part for part in path.parts if not globbing.has_magic(part)}
    wild = any(part.startswith("_") for part in path.parts if globbing.has_magic(part))
    found = sorted(
        file
        for file in map(Path, globbing.glob(str(path), recursive=True))
        if file.is_file()
        and (wild or not _hidden(Path(*(part for part in file.parts if part not in parts))))
    )
    if not found:
        raise DataError(f"{path}: no file matches this glob.")
    return found


def _require_one_kind(path: Path, files: Sequence[Path]) -> None:
    packed = [file for file in files if file.name.lower().endswith(_PACKED)]
    if packed:
        more = f" (and {len(packed) - 1:,} more)" if len(packed) > 1 else ""
        raise DataError(
            f"{packed[0]}{more}: a packed CSV cannot be read from the middle. Unpack it, or write "
            "the log as Parquet."
        )
    csv = [file for file in files if is_csv(file)]
    if csv and len(csv) < len(files):
        other = next(file for file in files if not is_csv(file))
        raise DataError(
            f"{path}: holds CSV ({csv[0]}) and Parquet ({other}). A log is of one kind: move one "
            "of them away, or name the files by a glob."
        )


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def open_parquet(path: Path) -> ParquetFile:
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
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}).") from error
    if tail[4:] != b"PAR1":
        what = (
            "a truncated Parquet file: its end is missing. Copy it again."
            if head == b"PAR1"
            else "no Parquet file. Is it CSV? Then its name must end with `.csv`."
        )
        raise DataError(f"{path}: this is {what}")
    try:
        metadata = pq.read_metadata(path)
        found = ParquetFile(path, {}, ()).scan().collect_schema()
    except (
        pa.ArrowException,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
    ) as error:
        raise DataError(
            f"{path}: the Parquet footer is corrupt, or says what cannot be read "
            f"({first_line(error)})."
        ) from error
    schema = {name: normal(dtype) for name, dtype in found.items()}
    group_rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    return ParquetFile(path, schema, group_rows)


def _sha256(path: Path, stamp: Stamp) -> str:
    return sha256_of(path)


_remembered = lru_cache(maxsize=4096)(_sha256)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
