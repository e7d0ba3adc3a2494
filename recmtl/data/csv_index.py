"""Where the records of a CSV file lie: found in one streaming pass over its bytes.

RFC 4180 with a header line: fields are separated by commas; a field with a comma, a quote or a line
break in it stands in quotes, and a quote in it is doubled. Lines end with LF or CRLF.

Shape letters: N bytes, R records.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.errors import DataError

__all__ = ["BOM", "MARK_ROWS", "Block", "CsvIndex", "Problems", "read_blocks", "read_header"]

MARK_ROWS = 1024
"""Every so many rows the index knows where the next one begins."""
_CHUNK = 1 << 20
_MAX_HEADER = 4 << 20
_MAX_RECORD = 64 << 20
_MAX_PROBLEMS = 20
_COMMA, _QUOTE, _LF, _CR = b',"\n\r'
BOM = b"\xef\xbb\xbf"
_BAD_QUOTE = (
    "a quote stands inside a field, or a field before it is not closed. Put such a field into "
    "quotes, and double the quotes in it."
)
_OPEN_QUOTE = "a quoted field that begins here does not end. Close its quotes."
_BAD_RETURN = (
    "a carriage return stands alone. Lines end with a line feed, and a field with a line break in "
    "it stands in quotes."
)

Ints = NDArray[np.int64]


class Problems:
    """What is wrong with a file: the first problems as they are, the others counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: list[str] = []
        self.num_more = 0

    def add(self, line: int, text: str) -> None:
        """A problem at a line of the file, counted from 1."""
        if len(self.texts) < _MAX_PROBLEMS:
            self.texts.append(f"{self.path}:{line}: {text}")
        else:
            self.num_more += 1

    def count(self, number: int) -> None:
        """Problems that nothing more is said of."""
        self.num_more += number

    @property
    def is_full(self) -> bool:
        """Whether further problems are only counted."""
        return len(self.texts) >= _MAX_PROBLEMS

    def messages(self) -> list[str]:
        """A sentence each."""
        more = [f"{self.path}: and {self.num_more:,} more problems like these."]
        return [*self.texts, *(more if self.num_more else [])]


class Block(NamedTuple):
    """Some records, one after the other."""

    data: bytes
    starts_R: Ints
    """Where each record begins in `data`."""
    first_row: int
    first_line: int
    """Line of the file, from 1, in which the first record begins."""

    def line(self, record: int) -> int:
        """The line of the file in which a record begins."""
        return self.first_line + self.data.count(b"\n", 0, int(self.starts_R[record]))


class CsvIndex(NamedTuple):
    """Records of a file: where every 1024th begins, how many there are, and the file's digest."""

    offsets: Ints
    """Of records 0, 1024, ...; and of the end."""
    num_rows: int
    digest: str


class _Header(NamedTuple):
    names: tuple[str, ...]
    size_bytes: int
    """Where the first record begins."""
    num_lines: int


def read_header(path: Path) -> _Header:
    """The names of the columns.

    Raises:
        DataError: the file is empty, no CSV, not UTF-8, or its header is not a list of names.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_HEADER)
    if not data.strip():
        raise DataError(f"{path}: the file is empty. A CSV file begins with column names.")
    if data.startswith(b"PAR1"):
        raise DataError(f"{path}: this is a Parquet file. Name it so: `.parquet`.")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:4096]:
        raise DataError(f"{path}: this is no UTF-8 text. Write it as UTF-8.")
    skipped = len(BOM) if data.startswith(BOM) else 0
    scan = _scan(np.frombuffer(data, np.uint8)[skipped:], at_end=False)
    end = skipped + int(scan.ends_R[0]) + 1 if len(scan.ends_R) else len(data)
    if 0 <= scan.bad_return < end - skipped:
        raise DataError(f"{path}:1: {_BAD_RETURN}")
    line = data[skipped:end]
    try:
        names = next(csv.reader(io.StringIO(line.decode(), newline=""), strict=True), [])
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:1: the header is no UTF-8 text. Write it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}:1: the header is no line of column names ({error}).") from error
    if not names:
        raise DataError(f"{path}:1: the line is empty. A CSV file begins with column names.")
    other = next((c for c in ";\t|" if len(names) == 1 and c in names[0]), None)
    if other is not None:
        raise DataError(f"{path}:1: fields are separated by {other!r}; write commas.")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        listed = ", ".join(f"`{name}`" for name in twice)
        raise DataError(
            f"{path}:1: several columns are called {listed}. Give each a name of its own."
        )
    return _Header(tuple(names), end, line.count(b"\n"))


def read_blocks(path: Path, header: _Header, problems: Problems) -> Iterator[Block | CsvIndex]:
    """The records in blocks of a few MiB, then the index.

    Problems of form are gathered: another number of fields than the header has, quotes where none
    can be, text that is not UTF-8. Blocks with such problems are not given out.
    """
    sha, rest = hashlib.sha256(), b""
    offsets: list[int] = []
    row, line, place = 0, header.num_lines + 1, header.size_bytes
    with path.open("rb") as file:
        sha.update(file.read(header.size_bytes))
        while True:
            chunk = file.read(_CHUNK)
            sha.update(chunk)
            data = rest + chunk
            if not data:
                break
            found = _scan(np.frombuffer(data, np.uint8), at_end=not chunk)
            ends_R = found.ends_R
            if not chunk and not found.is_open and not data.endswith(b"\n"):
                ends_R = np.append(ends_R, len(data))  # the last line has no end
            size = min(int(ends_R[-1]) + 1, len(data)) if len(ends_R) else 0
            starts_R = np.concatenate([[0], ends_R[:-1] + 1])[: len(ends_R)]
            block = Block(data[:size], starts_R, row, line)
            good = _check(block, ends_R, found, len(header.names), problems)
            if 0 <= found.bad_quote < size:
                return  # what follows cannot be told apart
            if size < len(data) and (not chunk or len(data) - size > _MAX_RECORD):
                text, place = _OPEN_QUOTE, found.last_quote
                if found.bad_quote >= 0:
                    text, place = _BAD_QUOTE, found.bad_quote
                problems.add(line + data.count(b"\n", 0, place), text)
                return
            if good and size:
                yield block
            offsets += (place + starts_R[-row % MARK_ROWS :: MARK_ROWS]).tolist()
            row, line, place = row + len(starts_R), line + block.data.count(b"\n"), place + size
            rest = data[size:]
            if not chunk:
                break
    yield CsvIndex(np.array([*offsets, place], np.int64), row, sha.hexdigest())


class _Scan(NamedTuple):
    """Bytes that mean something."""

    ends_R: Ints
    """Line feeds outside quotes."""
    commas: Ints
    """Commas outside quotes."""
    bad_return: int
    """First carriage return that ends no line, or -1."""
    bad_quote: int
    """First quote in the middle of a field, or -1."""
    last_quote: int
    is_open: bool
    """Whether the end lies inside quotes."""


def _scan(byte_N: NDArray[np.uint8], *, at_end: bool) -> _Scan:
    is_quote_N = byte_N == _QUOTE
    quotes = np.flatnonzero(is_quote_N)
    is_end_N, is_comma_N, is_return_N = byte_N == _LF, byte_N == _COMMA, byte_N == _CR
    bad_quote = -1
    if len(quotes):
        inside_N = np.bitwise_xor.accumulate(is_quote_N.view(np.uint8)).view(np.bool_)
        is_end_N &= ~inside_N
        is_comma_N &= ~inside_N
        is_return_N &= ~inside_N
        before = byte_N[np.maximum(quotes[::2] - 1, 0)]
        fits = (before == _COMMA) | (before == _LF) | (before == _QUOTE) | (quotes[::2] == 0)
        wrong = quotes[::2][~fits]
        closing = quotes[1::2]
        after = byte_N[np.minimum(closing + 1, len(byte_N) - 1)]
        fits = (after == _COMMA) | (after == _LF) | (after == _CR) | (after == _QUOTE)
        wrong = np.concatenate([wrong, closing[~fits & (closing + 1 < len(byte_N))]])
        bad_quote = int(wrong.min()) if len(wrong) else -1
    returns = np.flatnonzero(is_return_N)
    alone = returns[byte_N[np.minimum(returns + 1, len(byte_N) - 1)] != _LF]
    if not at_end:  # the line feed may follow
        alone = alone[alone + 1 < len(byte_N)]
    return _Scan(
        np.flatnonzero(is_end_N),
        np.flatnonzero(is_comma_N),
        int(alone[0]) if len(alone) else -1,
        bad_quote,
        int(quotes[-1]) if len(quotes) else -1,
        len(quotes) % 2 == 1,
    )


def _check(block: Block, ends_R: Ints, found: _Scan, width: int, problems: Problems) -> bool:
    """Whether a block is well-formed."""
    size = len(block.data)

    def line(place: int) -> int:
        return block.first_line + block.data.count(b"\n", 0, place)

    if 0 <= found.bad_quote < size:
        problems.add(line(found.bad_quote), _BAD_QUOTE)
        return False
    good = True
    if 0 <= found.bad_return < size:
        problems.add(line(found.bad_return), _BAD_RETURN)
        good = False
    commas_R = np.diff(np.searchsorted(found.commas, ends_R), prepend=0)
    wrong = np.flatnonzero(commas_R != width - 1)
    for record in wrong[: _MAX_PROBLEMS + 1].tolist():
        begin = int(block.starts_R[record])
        if not block.data[begin : int(ends_R[record])].strip():
            text = f"the line is empty; the header names {width} fields."
        else:
            fields = int(commas_R[record]) + 1
            text = f"the line has {fields} of {width} fields, which the header names."
        problems.add(line(begin), text)
    problems.count(max(len(wrong) - _MAX_PROBLEMS - 1, 0))
    try:
        block.data.decode()
    except UnicodeDecodeError as error:
        text = f"byte {block.data[error.start]:#04x} is no UTF-8 text. Write the file as UTF-8."
        problems.add(line(error.start), text)
        good = False
    return good and not len(wrong)
