"""StrictModel: a frozen pydantic model that refuses unknown keys and silent conversions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["INCONSISTENT", "Problem", "StrictModel", "describe"]

INCONSISTENT = "inconsistent"
"""Type of the pydantic error that carries the problems between keys."""


class Problem(NamedTuple):
    """One thing that is wrong with a spec."""

    path: tuple[str | int, ...]
    """Keys and list positions from the root to the value that is wrong."""
    message: str
    """What is wrong with it; the item it belongs to is named by `describe`."""
    covers: tuple[str | int, ...] | None = None
    """Path of a missing key that this problem explains: a misspelt key and the one it was meant to
    be are one problem."""


class StrictModel(BaseModel):
    """Base of everything that is read from a spec: frozen, strict, unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    reserved: ClassVar[frozenset[str]] = frozenset()
    """Keys, and values written as `key: value`, that a later version will give a meaning."""
    shorthands: ClassVar[tuple[str, ...]] = ()
    """Keys whose section may be a bare word: `tower: ple` is short for `tower: {kind: ple}`; those
    of a section within another, as in `tower.head`, after that one."""

    @classmethod
    def problems(cls, data: Mapping[str, Any]) -> list[Problem]:
        """What is wrong between keys; `data` is plain and may be wrong in other ways too."""
        return []

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        data = self.model_dump()
        problems = self.problems(data)
        if problems:
            text = "\n".join(describe(data, problem) for problem in problems)
            raise PydanticCustomError(INCONSISTENT, "{text}", {"text": text, "problems": problems})
        return self


def describe(data: Any, problem: Problem) -> str:
    """The problem's message behind the name of the feature, task or section it belongs to.

    Example:
        >>> data = {"features": [{"name": "user_id", "type": "sparse"}], "train": {"lr": 0}}
        >>> describe(data, Problem(("features", 0, "dim"), "`dim` is missing."))
        'sparse feature `user_id`: `dim` is missing.'
        >>> describe(data, Problem(("train", "lr"), "`lr` must be above 0, got 0."))
        'train: `lr` must be above 0, got 0.'
    """
    where = item_of(data, problem.path)
    return f"{where}: {problem.message}" if where else problem.message


def item_of(data: Any, path: tuple[str | int, ...]) -> str:
    """The feature, task or section that a path leads into; nothing for a key of the root."""
    if len(path) > 1 and path[0] in ("features", "tasks") and isinstance(path[1], int):
        item = data[path[0]][path[1]]
        name, kind = (
            (item.get("name"), item.get("type")) if isinstance(item, Mapping) else (None, None)
        )
        word = (
            "task"
            if path[0] == "tasks"
            else f"{kind} feature"
            if kind in FEATURE_TYPES
            else "feature"
        )
        return (
            f"{word} `{name}`" if isinstance(name, str) and name else f"{word} number {path[1] + 1}"
        )
    return ".".join([part for part in path if isinstance(part, str)][:-1])


def subject_of(path: tuple[str | int, ...]) -> str:
    """The key, or the place in its list, that a path ends in, below the item that `item_of` names.

    Example:
        >>> subject_of(("features", 0, "vocab", "min_count"))
        '`vocab.min_count`'
        >>> subject_of(("tower", "expert_widths", 1))
        '`expert_widths[1]`'
    """
    inside = (
        path[2:] if len(path) > 1 and path[0] in ("features", "tasks") else _from_last_key(path)
    )
    text = ""
    for part in inside:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"`{text}`" if text else ""


def _from_last_key(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    last = max((i for i, part in enumerate(path) if isinstance(part, str)), default=0)
    return path[last:]


FEATURE_TYPES = ("sparse", "sequence", "dense", "vector")
