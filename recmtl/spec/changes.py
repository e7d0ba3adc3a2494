"""In what a spec differs from that of a trained model, as far as the model cannot be carried over.

What decides neither the shape nor the meaning of a weight may differ: where the rows are, how often
an id has to be seen, what a null does, how much a task counts and how it is calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recmtl.spec._base import StrictModel
from recmtl.spec.spec import Spec

__all__ = ["changed_keys", "feature_changes", "task_changes"]

_FREE_OF_FEATURES = frozenset({"nulls", "vocab.min_count"})
_FREE_OF_TASKS = frozenset({"calibration", "weight"})


def feature_changes(before: Spec, now: Spec) -> list[str]:
    """What encoders and tables of `before` cannot become in `now`, a sentence each."""
    return _changes("feature", before.features, now.features, _FREE_OF_FEATURES)


def task_changes(before: Spec, now: Spec) -> list[str]:
    """What the heads of `before` cannot become in `now`, a sentence each."""
    found = _changes("task", before.tasks, now.tasks, _FREE_OF_TASKS)
    for name in ("sampled", "sample"):
        old, new = (getattr(spec.data, name) for spec in (before, now))
        if (old and old.keep) != (new and new.keep):
            found.append(
                f"data.{name}: was trained with {_words(old and old.keep)}, not"
                f" {_words(new and new.keep)}; heads learned rows that were thinned so."
            )
    return found


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys in which two sections differ, with what they were and are, such as ``dim: 8, not 4``.

    Example:
        >>> changed_keys({"kind": "ple", "head": {"dim": 8}}, {"kind": "ple", "head": {"dim": 4}})
        ['head.dim: 8, not 4']
    """
    found = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {_words(old)}, not {_words(new)}")
    return found


def _changes(
    what: str, before: Sequence[StrictModel], now: Sequence[StrictModel], free: frozenset[str]
) -> list[str]:
    olds, news = ({_name(part): part for part in parts} for parts in (before, now))
    found = [f"{what} `{name}`: is gone." for name in olds.keys() - news.keys()]
    found += [f"{what} `{name}`: is new." for name in news.keys() - olds.keys()]
    for name in olds.keys() & news.keys():
        old, new = (part.model_dump(mode="json") for part in (olds[name], news[name]))
        keys = [k for k in changed_keys(old, new) if k.partition(": ")[0] not in free]
        if keys:
            found.append(f"{what} `{name}`: was trained with {'; '.join(keys)}.")
    if not found and list(olds) != list(news):
        order = ", ".join(f"`{name}`" for name in olds)
        found.append(f"{what}s: were trained in another order: {order}.")
    return sorted(found)


def _name(part: StrictModel) -> str:
    name: str = part.name  # type: ignore[attr-defined]  # features and tasks have one
    return name


def _words(value: Any) -> str:
    """A value as in a spec, no longer than a line takes."""
    if value is None:
        return "nothing"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
