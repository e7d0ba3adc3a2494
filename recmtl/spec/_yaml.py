"""YAML text -> plain data, with a line for every key.

Only the parser of PyYAML is used: no tags, objects, aliases or merge keys. Numbers, booleans and
nulls are read by `read_plain`, which refuses what YAML would misread in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from recmtl.spec._base import Problem, subject_of

__all__ = ["Document", "YamlSyntaxError", "is_plain_string", "read_document", "read_plain"]

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 20

Path = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*(_[0-9]+)*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?0[xob][0-9a-fA-F_]+")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9]*)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_OLD_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_MAX_DIGITS = 400


class YamlSyntaxError(Exception):
    """Text that is not YAML, or more than a spec can be; nothing after it can be read.

    Attributes:
        line: line number from 1, or `None` where the parser gives none.
    """

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Document:
    """Plain data, where each part of it stands, and what YAML got wrong."""

    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    """Line of each key and list item by its path, from 1."""
    problems: list[tuple[int, Problem]] = field(default_factory=list)
    """Problems with their lines."""
    unread: set[Path] = field(default_factory=set)
    """Values with a problem of their own: what else is wrong with them says nothing new."""


class _TrapError(Exception):
    """A plain scalar that means something else than it says."""


def read_plain(text: str) -> Any:
    """Value of an unquoted scalar: null, boolean, integer, float or string.

    Raises:
        _TrapError: for what YAML 1.1 reads in silence as something else.

    Example:
        >>> read_plain("1e-3"), read_plain("1_000_000"), read_plain("user_id"), read_plain("~")
        (0.001, 1000000, 'user_id', None)
    """
    if text in _NULLS:
        return None
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text.lower() in _OLD_BOOLEANS and text in (text.lower(), text.capitalize(), text.upper()):
        meant = _OLD_BOOLEANS[text.lower()]
        raise _TrapError(
            f"is `{text}` without quotes, which YAML reads as {meant}. "
            f'Write `{meant}`, or "{text}" for the word'
        )
    if text == "None":
        raise _TrapError('is `None`, which is not YAML. Write `null`, or "None" for the word')
    if text in ("<<", "="):
        raise _TrapError(
            f'is `{text}`, which has a meaning of its own in YAML. Write "{text}" in quotes'
        )
    if _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text) if len(text) <= _MAX_DIGITS else float("inf")
        if value in (float("inf"), float("-inf")):
            raise _TrapError(f"is {_short(text)}, which is too large for a number")
        return value
    for pattern, reason in _TRAPS:
        if pattern.fullmatch(text):
            raise _TrapError(reason.format(text=_short(text)))
    return text


_TRAPS = (
    (
        _LEADING_ZERO,
        "is {text}, which YAML may read as octal. Write it without the leading 0, or in quotes",
    ),
    (_OTHER_BASE, "is {text}, a number in another base. Write it in decimal, or in quotes"),
    (_BASE_60, "is {text}, which YAML reads as a number in base 60. Write it in quotes"),
    (_DATE, "is {text}, which YAML reads as a date. Write it in quotes"),
    (_NOT_FINITE, "is {text}, and numbers must be finite"),
)


def is_plain_string(text: str) -> bool:
    """Whether `text`, unquoted, is read back as itself."""
    try:
        return bool(read_plain(text) == text)
    except _TrapError:
        return False


def read_document(text: str) -> Document:
    """Read one YAML document.

    Raises:
        YamlSyntaxError: if the text cannot be read to its end.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_CHARACTERS:
        raise YamlSyntaxError(
            None, f"the text has {len(text):,} characters, and a spec at most {MAX_CHARACTERS:,}."
        )
    try:
        return _Reader(text).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = "; ".join(part for part in (error.context, error.problem) if part)
        raise YamlSyntaxError(
            mark.line + 1 if mark else None, f"this is not YAML: {reason}."
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise YamlSyntaxError(line, f"character {character} is not allowed in YAML.") from error


class _Reader:
    """Builds plain data from the parser's events."""

    def __init__(self, text: str) -> None:
        self.document = Document()
        self.events: Iterator[Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))

    def read(self) -> Document:
        next(self.events)  # start of the stream
        first = next(self.events)
        if isinstance(first, DocumentStartEvent):
            self.document.data = self.value(next(self.events), ())
            next(self.events)  # end of the document
            after = next(self.events)
            if not isinstance(after, StreamEndEvent):
                raise YamlSyntaxError(
                    _line(after), "a second document starts here (`---`), and a spec is one."
                )
        return self.document

    def value(self, event: Event, path: Path) -> Any:
        self.document.lines.setdefault(path, _line(event))
        if len(path) > MAX_DEPTH:
            raise YamlSyntaxError(
                _line(event), f"values are nested deeper than {MAX_DEPTH} levels."
            )
        if isinstance(event, AliasEvent):
            what = f"is the alias `*{event.anchor}`, and aliases are not read. Write the value out"
            self.problem(event, path, what)
            return None
        assert isinstance(event, ScalarEvent | CollectionStartEvent)  # what else begins a value
        if event.anchor is not None:
            what = f"has the anchor `&{event.anchor}`, and anchors are not read. Leave it out"
            self.problem(event, path, what)
        if event.tag is not None:
            what = f"has the tag {_short(str(event.tag))}, and tags are not read. Leave it out"
            self.problem(event, path, what)
        if isinstance(event, SequenceStartEvent):
            return self.sequence(path)
        if isinstance(event, MappingStartEvent):
            return self.mapping(path)
        return self.scalar(event, path)

    def sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        return items

    def mapping(self, path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.key(event, path)
            if key is None:
                self.skip(next(self.events), (*path, ""))
            elif key in items:
                first = self.document.lines[(*path, key)]
                message = f"duplicate key `{key}`, first given in line {first}."
                self.document.problems.append((_line(event), Problem((*path, key), message)))
                self.skip(next(self.events), (*path, ""))
            else:
                self.document.lines[(*path, key)] = _line(event)
                items[key] = self.value(next(self.events), (*path, key))
        return items

    def key(self, event: Event, path: Path) -> str | None:
        """The key as a string; `None` for one that is reported and not read."""
        line = _line(event)
        if not isinstance(event, ScalarEvent) or event.tag is not None or event.anchor is not None:
            message = "a key must be a plain word, without tag, anchor, list or mapping."
            self.document.problems.append((line, Problem((*path, ""), message)))
            self.skip(event, (*path, ""))
            return None
        if event.implicit[0] and event.value == "<<":
            message = "merge keys (`<<`) are not read. Write the keys out."
            self.document.problems.append((line, Problem((*path, "<<"), message)))
            return None
        try:
            key = read_plain(event.value) if event.implicit[0] else event.value
        except _TrapError as trap:
            self.document.problems.append((line, Problem((*path, event.value), f"a key {trap}.")))
            return None
        if not isinstance(key, str):
            message = f"a key must be a string, got {_short(event.value)}. Write it in quotes."
            self.document.problems.append((line, Problem((*path, event.value), message)))
            return None
        return key

    def scalar(self, event: Event, path: Path) -> Any:
        assert isinstance(event, ScalarEvent)
        text = str(event.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.problem(event, path, "holds half of a surrogate pair, which is no character")
            return ""
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        try:
            return read_plain(text)
        except _TrapError as trap:
            self.problem(event, path, str(trap))
            return text

    def skip(self, event: Event, path: Path) -> None:
        """Read past a value, whose first event is given."""
        known, self.document = self.document, Document()
        self.value(event, path)
        self.document = known

    def problem(self, event: Event, path: Path, what: str) -> None:
        subject = subject_of(path)
        message = f"{subject} {what}." if subject else f"the value {what}."
        self.document.problems.append((_line(event), Problem(path, message)))
        self.document.unread.add(path)


def _line(event: Event) -> int:
    assert event.start_mark is not None
    return int(event.start_mark.line) + 1


def _short(text: str, limit: int = 40) -> str:
    return f"`{text}`" if len(text) <= limit else f"`{text[:limit]}...`"
