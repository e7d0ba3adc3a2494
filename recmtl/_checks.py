"""Argument checks shared by all layers, and words for them. Standard library only; `ValueError`."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, get_args

__all__ = [
    "ByKind",
    "require_fraction",
    "require_not_empty",
    "require_not_negative",
    "require_one_of",
    "require_positive",
    "require_widths",
    "size_text",
    "suggest",
]


def require_positive(**values: int) -> None:
    """Require every value to be an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def require_widths(**values: Sequence[int]) -> None:
    """Require every value to be a sequence of positive integers (an empty one is allowed)."""
    for name, widths in values.items():
        for width in widths:
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise ValueError(f"`{name}` must hold positive integers, got {list(widths)!r}.")


def require_not_negative(**values: int) -> None:
    """Require every value to be an integer of at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"`{name}` must be an integer of at least 0, got {value!r}.")


def require_not_empty(**values: Sequence[int]) -> None:
    """Require every sequence to hold something."""
    for name, value in values.items():
        if not value:
            raise ValueError(f"`{name}` must hold at least one entry, got none.")


def require_fraction(**values: float) -> None:
    """Require every value to lie in [0, 1)."""
    for name, value in values.items():
        if isinstance(value, bool) or not math.isfinite(value) or not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` must be at least 0 and below 1, got {value!r}.")


def require_one_of(allowed: Sequence[str], **values: str) -> None:
    """Require every value to be one of `allowed`; the message suggests the nearest one."""
    for name, value in values.items():
        if value not in allowed:
            listed = ", ".join(f"`{a}`" for a in allowed)
            near = suggest(value, allowed)
            raise ValueError(f"`{name}` must be one of {listed}, got {value!r}.{near}")


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence that proposes the known word nearest to a misspelt one, or nothing.

    Example:
        >>> suggest("dims", ["dim", "name"])
        ' Did you mean `dim`?'
        >>> suggest("zzz", ["dim", "name"])
        ''
    """
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def size_text(size_bytes: float) -> str:
    """A size in words.

    Example:
        >>> size_text(512), size_text(3 * 2**29), size_text(2**41)
        ('512 B', '1.5 GiB', '2.0 TiB')
    """
    if size_bytes < 1024:
        return f"{int(size_bytes)} B"
    for unit in ("KiB", "MiB", "GiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} TiB"


class ByKind:
    """Tells pydantic, where a dataclass is read from a file, to choose a union's member by `kind`.

    It is written as the schema itself, so that pydantic need not be there.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Schema of a union of dataclasses, each with a default of `kind`."""
        members = {_kind(member): member for member in get_args(source)}
        choices = {kind: handler.generate_schema(member) for kind, member in members.items()}
        return {"type": "tagged-union", "choices": choices, "discriminator": "kind"}


def _kind(config: Any) -> str:
    (kind,) = (field.default for field in dataclasses.fields(config) if field.name == "kind")
    return str(kind)
