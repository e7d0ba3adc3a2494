"""Files of a log made to agree on their columns; only what is read has to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from recmtl.data.dtypes import common, family, inner, is_list
from recmtl.data.files import LogFile
from recmtl.data.wanted import Want
from recmtl.errors import DataError

__all__ = ["Merged", "merge_schemas"]

_MAX_FILES = 5


class Merged(NamedTuple):
    """What the files of a log have in common."""

    schema: pl.Schema
    """Columns that all files with rows have, each in a type that holds those of all of them."""
    unread: dict[str, list[str]]
    """Other columns -> why they cannot be read, a sentence each."""


def merge_schemas(parts: Sequence[LogFile], wants: Mapping[str, Want]) -> Merged:
    """Merge the columns of all files that have rows, in the first one's order.

    Args:
        parts: the files.
        wants: columns that will be read.

    Raises:
        DataError: a column that will be read is missing in some files, or differs between them; or
            it is the key of a partition, in the names of folders.
    """
    full = [part for part in parts if part.group_rows and sum(part.group_rows)] or parts[:1]
    names = dict.fromkeys(name for part in full for name in part.schema)
    schema: dict[str, pl.DataType] = {}
    unread: dict[str, list[str]] = {}
    for name in names:
        problems = _missing(full, name)
        if not problems:
            schema[name], problems = _merged(full, name, wants.get(name))
        if problems:
            schema.pop(name, None)
            unread[name] = problems
    used = [text for name in sorted(unread.keys() & wants.keys()) for text in unread[name]]
    used += [
        text for name in wants if name not in names for text in _partitions(full, name, wants[name])
    ]
    if used:
        raise DataError.all_of(used)
    return Merged(pl.Schema(schema), unread)


def _missing(parts: Sequence[LogFile], name: str) -> list[str]:
    has = next(part for part in parts if name in part.schema)
    lacking = [part.path for part in parts if name not in part.schema]
    texts = [f"{path}: column `{name}` is missing, {has.path} has it." for path in lacking]
    return _cut(texts, f"column `{name}` is missing in")


def _merged(
    parts: Sequence[LogFile], name: str, want: Want | None
) -> tuple[pl.DataType, list[str]]:
    first = next((p for p in parts if not isinstance(p.schema[name], pl.Null)), parts[0])
    merged, texts = first.schema[name], []
    numbers = want is not None and want.kind in ("number", "numbers")
    for part in parts:
        if part.schema[name] == merged:
            continue
        dtype = common(merged, part.schema[name], numbers=numbers)
        if dtype is None:
            texts.append(
                f"{part.path}: column `{name}` is {part.schema[name]}, in {first.path} it is "
                f"{first.schema[name]}. {_remedy(part.schema[name], merged, want)}"
            )
        else:
            merged = dtype
    return merged, _cut(texts, f"column `{name}` differs in")


def _remedy(one: pl.DataType, other: pl.DataType, want: Want | None) -> str:
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime):
        return "Write it with a time zone in every file, or in none."
    families = {family(inner(one)), family(inner(other))}
    if is_list(one) == is_list(other) and (want is None or want.kind != "number"):
        if families == {"int", "float"}:
            return "As a float an integer loses digits: write it as an integer in every file."
        if families == {"int", "string"}:
            return "Write it as integers in every file, or as strings in every file."
    return "Write it in one type."


def _partitions(parts: Sequence[LogFile], name: str, want: Want) -> list[str]:
    """Folders like `day=1` name a column that no file has."""
    for part in parts:
        for folder in part.path.parent.parts:
            if folder.startswith(f"{name}="):
                return [
                    f"{part.path}: column `{name}` ({want.role}) is missing: it is only in the name"
                    f" of the folder `{folder}`, which is not read. Write it into the files."
                ]
    return []


def _cut(texts: list[str], what: str) -> list[str]:
    if len(texts) <= _MAX_FILES:
        return texts
    return [*texts[:_MAX_FILES], f"{what} {len(texts) - _MAX_FILES:,} more files."]
