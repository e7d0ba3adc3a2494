"""Pydantic's errors -> problems in plain sentences: what must be, what was given, what to do."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from recmtl._checks import suggest
from recmtl.spec._base import INCONSISTENT, Problem, StrictModel, subject_of

__all__ = ["Location", "keys_of", "locate", "problems_of", "say", "value_at"]

Path = tuple[str | int, ...]


class Location(typing.NamedTuple):
    """Where an error of pydantic is: the path in the file, and what the models say about it."""

    path: Path
    """Keys and list positions; pydantic's own names of union members are left out."""
    owner: Any
    """The innermost model or dataclass around the value, or `None`."""
    annotation: Any
    """What is declared at the path, or `None` where nothing is."""


def problems_of(model: type[StrictModel], error: ValidationError, data: Any) -> list[Problem]:
    """Every problem that pydantic found in `data`."""
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == INCONSISTENT:
            problems += detail["ctx"]["problems"]
        elif detail["type"] != "default_factory_not_called":  # a default that other errors prevent
            problems.append(_problem(model, detail, data))
    return problems


def _problem(model: type[StrictModel], detail: Mapping[str, Any], data: Any) -> Problem:
    kind, ctx = detail["type"], detail.get("ctx", {})
    location = locate(model, detail["loc"])
    path, owner = location.path, location.owner
    subject = subject_of(path)
    got = say(value_at(data, path))
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return _unknown_key(path, owner)
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return Problem(path, f"missing key {subject}.{_meaning(owner, path[-1])}")
    if kind == "union_tag_not_found":
        key = str(ctx["discriminator"]).strip("'")
        tags = ", ".join(f"`{tag}`" for tag in _tags(location.annotation))
        return Problem(
            (*path, key), f"missing key {subject_of((*path, key))}: it must be one of {tags}."
        )
    if kind == "union_tag_invalid":
        key, tag = str(ctx["discriminator"]).strip("'"), str(ctx["tag"])
        if f"{key}: {tag}" in getattr(owner, "reserved", ()):
            return Problem((*path, key), f"`{key}: {tag}` is reserved for a later version.")
        return Problem(
            (*path, key), _one_of(subject_of((*path, key)), _tags(location.annotation), tag)
        )
    if kind == "value_error":
        reason = str(ctx["error"])
        named = (
            reason.split("`")[1] if reason.startswith("`") else None
        )  # a dataclass names its field
        inside = value_at(data, path)
        if named is not None and isinstance(inside, Mapping):
            return Problem((*path, named), reason)
        return Problem(path, f"{subject} {reason}" if subject else reason)
    if kind == "literal_error":
        allowed = _literals(location.annotation)
        value = value_at(data, path)
        if f"{path[-1]}: {value}" in getattr(owner, "reserved", ()):
            return Problem(path, f"`{path[-1]}: {value}` is reserved for a later version.")
        return Problem(path, _one_of(subject, allowed, value))
    expected = _EXPECTED.get(kind)
    sentence = expected.format(**ctx) if expected else f"is wrong: {detail['msg']}"
    return Problem(path, f"{subject or 'it'} {sentence}, got {got}.")


_EXPECTED = {  # by pydantic's type of error
    "bool_type": "must be `true` or `false`",
    "dataclass_exact_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "int_type": "must be an integer",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:,}",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "too_short": "must have at least {min_length} item",
    "tuple_type": "must be a list",
}


def _unknown_key(path: Path, owner: Any) -> Problem:
    key, known = str(path[-1]), keys_of(owner)
    if key in getattr(owner, "reserved", ()):
        return Problem(path, f"key `{key}` is reserved for a later version.")
    nearest = suggest(key, known)
    if not nearest:
        return Problem(
            path, f"unknown key `{key}`. Known keys: {', '.join(f'`{k}`' for k in known)}."
        )
    return Problem(
        path, f"unknown key `{key}`.{nearest}", covers=(*path[:-1], nearest.split("`")[1])
    )


def _one_of(subject: str, allowed: Sequence[Any], got: Any) -> str:
    listed = ", ".join(f"`{a}`" for a in allowed)
    nearest = suggest(got, [str(a) for a in allowed]) if isinstance(got, str) else ""
    one_of = "one of " if len(allowed) > 1 else ""
    return f"{subject} must be {one_of}{listed}, got {say(got)}.{nearest}"


def _meaning(owner: Any, key: Any) -> str:
    """First sentence of a field's documentation, to say what is missing."""
    fields: Mapping[str, FieldInfo] = getattr(owner, "model_fields", {})
    description = fields[key].description if key in fields else None
    sentence = " ".join((description or "").split()).split(". ")[0].rstrip(".")
    return f" {sentence}." if sentence else ""


def say(value: Any) -> str:
    """A value from a spec in words that fit after "got".

    Example:
        >>> say("a"), say(None), say(True), say([1]), say(2.5)
        ('the string `a`', 'null', 'true', 'a list', '2.5')
    """
    if isinstance(value, str):
        return f"the string `{value}`" if len(value) <= 60 else f"the string `{value[:60]}...`"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def value_at(data: Any, path: Path) -> Any:
    """The value at a path in plain data, `None` where there is none."""
    for part in path:
        if isinstance(data, Mapping) and isinstance(part, str):
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def keys_of(owner: Any) -> list[str]:
    """Keys of a model or dataclass, in their order."""
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        return list(owner.model_fields)
    return [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []


def locate(model: type[BaseModel], loc: Sequence[str | int]) -> Location:
    """Follow pydantic's location through the models; names of union members drop out of it."""
    path: list[str | int] = []
    owner: Any = model
    here: Any = model
    for part in loc:
        if len(members := _members(here)) > 1:
            here = next((m for m in members if str(part) in _member_tags(m)), None)
            continue
        path.append(part)
        here = members[0] if members else None
        if keys_of(here):
            owner = here
            here = _hints(here).get(str(part))
        elif typing.get_origin(here) in (tuple, list):
            here = typing.get_args(here)[0]
        elif typing.get_origin(here) is dict:
            here = typing.get_args(here)[1]
        else:
            here = None
    return Location(tuple(path), owner, here)


@functools.cache
def _hints(owner: Any) -> dict[str, Any]:
    return typing.get_type_hints(owner, include_extras=True)


def _members(annotation: Any) -> list[Any]:
    """Members of a union without `None`; the annotation alone where it is none."""
    if typing.get_origin(annotation) is Annotated:
        if any(isinstance(extra, Tag) for extra in annotation.__metadata__):
            return [annotation.__origin__]
        return _members(annotation.__origin__)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [m for m in typing.get_args(annotation) if m is not type(None)]
        return _members(members[0]) if len(members) == 1 else members
    return [] if annotation is None else [annotation]


def _member_tags(member: Any) -> tuple[str, ...]:
    """What a member of a union is called: its tag, or the value of its `type` or `kind`."""
    if typing.get_origin(member) is Annotated:
        return tuple(extra.tag for extra in member.__metadata__ if isinstance(extra, Tag))
    hints = _hints(member) if keys_of(member) else {}
    return next((typing.get_args(hints[key]) for key in ("type", "kind") if key in hints), ())


def _tags(annotation: Any) -> list[str]:
    return [tag for member in _members(annotation) for tag in _member_tags(member)]


def _literals(annotation: Any) -> list[Any]:
    members = _members(annotation)
    return [
        value for m in members if typing.get_origin(m) is Literal for value in typing.get_args(m)
    ]
