"""Overrides, `key.sub=value`, are written into a document before it is checked."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

from recmtl._checks import suggest
from recmtl.spec._base import StrictModel
from recmtl.spec._messages import keys_of, locate
from recmtl.spec._yaml import Document, YamlSyntaxError, read_document

__all__ = ["apply_override"]

Path = tuple[str | int, ...]


class _UnknownKeyError(Exception):
    """A key of an override leads nowhere."""


def apply_override(
    model: type[StrictModel], document: Document, text: str
) -> tuple[list[Path], list[str]]:
    """Write one override into `document.data`.

    Returns:
        The path that was written, after the sections that came into being on the way to it, and
        everything that is wrong with the override itself.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        return [], ["must be `key.sub=value`, such as `train.lr=0.01`."]
    if not value.strip():
        return [], ['has no value. Write `null` for none, or "" for an empty string.']
    try:
        read = read_document(value)
        *made, path = _write(model, document, key.split("."), read.data)
    except YamlSyntaxError as error:
        return [], [str(error)]
    except _UnknownKeyError as error:
        return [], [str(error)]
    for known in [p for p in (*document.lines, *document.unread) if p[: len(path)] == path]:
        document.lines.pop(known, None)
        document.unread.discard(known)
    document.problems = [(n, p) for n, p in document.problems if p.path[: len(path)] != path]
    document.unread |= {(*path, *inner) for inner in read.unread}
    return [*made, path], [problem.message for _, problem in read.problems]


def _write(
    model: type[StrictModel], document: Document, parts: Sequence[str], value: Any
) -> list[Path]:
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise _UnknownKeyError("leads nowhere, as the file is not a mapping.")
    here: Any = document.data
    path: Path = ()
    made: list[Path] = []
    while parts:
        annotation = _declared(model, document.data, path)
        if isinstance(here, list):
            index, used = _item(here, parts, path)
            step: str | int = index
        elif typing.get_origin(annotation) is dict:
            step, used = ".".join(parts), len(parts)
        else:
            step, used = parts[0], 1
        path, parts = (*path, step), parts[used:]
        if not parts:
            break
        if isinstance(step, str) and here.get(step) is None:
            here[step] = {}
            made.append(path)
        elif isinstance(here[step], str) and ".".join(map(str, path)) in model.shorthands:
            here[step] = {"kind": here[step]}
        here = here[step]
        if not isinstance(here, dict | list):
            raise _UnknownKeyError(
                f"`{'.'.join(map(str, path))}` is a value, not a section with keys."
            )
    here[path[-1]] = value
    return [*made, path]


def _item(items: list[Any], parts: Sequence[str], path: Path) -> tuple[int, int]:
    """Position of the item whose name `parts` begin with, and how many parts the name has."""
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    for used in range(len(parts), 0, -1):
        name = ".".join(parts[:used])
        if name in names:
            return names.index(name), used
    known = [name for name in names if isinstance(name, str)]
    section = str(path[-1])
    if section in ("features", "tasks"):
        listed = suggest(parts[0], known) or f" Known: {', '.join(f'`{n}`' for n in known)}."
        raise _UnknownKeyError(f"no {section.removesuffix('s')} is called `{parts[0]}`.{listed}")
    raise _UnknownKeyError(
        f"`{section}` is a list, and one of its items cannot be set. "
        f"Write `{'.'.join(map(str, path))}=[...]`."
    )


def _declared(model: type[StrictModel], data: Any, path: Path) -> Any:
    """What the model declares at a path of plain data (inside tagged unions: nothing)."""
    annotation = locate(model, path).annotation
    return annotation if not keys_of(annotation) else None
