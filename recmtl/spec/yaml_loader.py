"""YAML text -> any StrictModel, with file and line in every message and all problems at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from recmtl.errors import SpecError
from recmtl.spec._base import Problem, StrictModel, describe
from recmtl.spec._messages import problems_of, value_at
from recmtl.spec._overrides import apply_override
from recmtl.spec._yaml import MAX_CHARACTERS, Document, YamlSyntaxError, read_document

__all__ = [
    "Document",
    "YamlSyntaxError",
    "load_yaml",
    "parse_yaml",
    "read_document",
    "read_text",
]

M = TypeVar("M", bound=StrictModel)
KeyPath = tuple[str | int, ...]

MAX_LINES = 100
MAX_LINE = 1_000


class _Place(NamedTuple):
    """Where a value was written; sorts by line, overrides last."""

    rank: int
    words: str


def load_yaml(model: type[M], path: str | Path, overrides: Sequence[str] = ()) -> M:
    """Read a YAML file as a `model`.

    Args:
        model: what the file holds.
        path: the file, UTF-8.
        overrides: `key.sub=value` each, applied in order; the value is YAML. Features and tasks go
            by name.

    Raises:
        SpecError: if the file cannot be read, or with every problem in it.
    """
    text = read_text(path)
    return parse_yaml(model, text, source=str(path), overrides=overrides)


def read_text(path: str | Path) -> str:
    """The text of a YAML file.

    Raises:
        SpecError: it cannot be read, or is not UTF-8.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            raw = stream.read(4 * MAX_CHARACTERS + 1)
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{path}:{line}: this is not UTF-8 text: byte 0x{raw[error.start]:02x}."
        ) from None
    except FileNotFoundError:
        raise SpecError(f"{path}: there is no such file.{_yaml_files(file.parent)}") from None
    except OSError as error:
        raise SpecError(f"{path}: the file cannot be read: {error.strerror}.") from None


def parse_yaml(
    model: type[M], text: str, *, source: str = "<text>", overrides: Sequence[str] = ()
) -> M:
    r"""Read YAML text as a `model`; `source` stands for the file in messages.

    Raises:
        SpecError: with every problem, one a line, as ``source:line: item: what is wrong``.

    Example:
        >>> from recmtl.spec import DataSpec
        >>> parse_yaml(DataSpec, "train: logs/", overrides=["memory=2GiB"]).memory_bytes
        2147483648
        >>> parse_yaml(DataSpec, "train: logs/\nmemroy: 2GiB")
        Traceback (most recent call last):
        recmtl.errors.SpecError: <text>:2: unknown key `memroy`. Did you mean `memory`?
    """
    try:
        document = read_document(text)
    except YamlSyntaxError as error:
        at = "" if error.line is None else f":{error.line}"
        raise SpecError(f"{source}{at}: {error}") from None
    found: list[tuple[_Place, str]] = []
    written: dict[KeyPath, _Place] = {}
    for i, override in enumerate(overrides):
        place = _Place(len(text) + i, f"override `{override}`")
        paths, wrong = apply_override(model, document, override)
        found += [(place, message) for message in wrong]
        for path in paths:
            written = {p: old for p, old in written.items() if p[: len(path)] != path}
            written[path] = place
    places: dict[KeyPath, _Place] = {(): _Place(1, f"{source}:1")}
    places |= {p: _Place(n, f"{source}:{n}") for p, n in document.lines.items()}
    places |= written
    value, problems = _validate(model, document)
    for line, problem in document.problems:
        found.append((_Place(line, f"{source}:{line}"), describe(document.data, problem)))
    for problem in problems:
        found.append((_nearest(places, problem.path), describe(document.data, problem)))
    if found or value is None:
        raise SpecError.all_of(_lines(found))
    return value


def _lines(found: list[tuple[_Place, str]]) -> list[str]:
    """One line a problem, without repetitions, control characters and texts of any length."""
    found.sort(key=lambda item: item[0].rank)
    lines = [
        "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"{place.words}: {message}")
        for place, message in found
    ]
    lines = [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..." for line in lines]
    lines = list(dict.fromkeys(lines))
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"... and {more} more problems."]


def _nearest(places: Mapping[KeyPath, _Place], path: KeyPath) -> _Place:
    """Where a path was written, or else what is around it."""
    return next(places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in places)


def _spelt_out(data: Any, keys: Sequence[str]) -> Any:
    """The same with `{kind: word}` instead of a bare word at the end of a path of keys."""
    if not keys:
        return {"kind": data} if isinstance(data, str) else data
    if not isinstance(data, Mapping) or keys[0] not in data:
        return data
    return {**data, keys[0]: _spelt_out(data[keys[0]], keys[1:])}


def _validate(model: type[M], document: Document) -> tuple[M | None, list[Problem]]:
    """The model, and what is wrong besides what YAML itself got wrong."""
    data = document.data
    if not isinstance(data, Mapping):
        what = "is empty" if data is None else "is not a mapping of keys to values"
        return None, [Problem((), f"the file {what}. It must have the keys of a spec.")]
    for key in model.shorthands:
        data = _spelt_out(data, key.split("."))
    problems = model.problems(data)
    value: M | None = None
    try:
        value = model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = _merge(problems, problems_of(model, error, data))
    unread = document.unread | {problem.path for _, problem in document.problems}
    covered = {
        p.covers for p in problems if p.covers is not None and value_at(data, p.covers) is None
    }
    hidden = unread | covered
    return value, [
        p for p in problems if not any(p.path[:n] in hidden for n in range(1, len(p.path) + 1))
    ]


def _merge(checked: list[Problem], typed: list[Problem]) -> list[Problem]:
    """Both lists, each problem once; a value of the wrong type has no further problems."""
    wrong = {p.path for p in typed}
    return [*typed, *(p for p in checked if p not in typed and p.path not in wrong)]


def _yaml_files(folder: Path) -> str:
    found = (
        sorted(f.name for pattern in ("*.yaml", "*.yml") for f in folder.glob(pattern))[:5]
        if folder.is_dir()
        else []
    )
    return f" Beside it: {', '.join(f'`{name}`' for name in found)}." if found else ""
