"""What goes into a tower: task slots, sizes and, beyond one vector a row, fields and sequences.

Shape letters: B rows, D input width, F fields, E embedding width, L sequence length, T tasks.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from recmtl._checks import suggest

__all__ = ["InputDims", "TaskSlot", "TowerInput", "groups_of", "input_width", "task_slots"]


class TaskSlot(NamedTuple):
    """One task as a tower sees it: a name and how many logits it needs.

    Attributes:
        name: the task's name; parameters of the task are kept under it.
        outputs: number of logits (1 for a binary task or a regression).
        group: tasks of one group share experts in towers that know groups.
        after: tasks that come before this one in towers that pass information along a chain.
    """

    name: str
    outputs: int = 1
    group: str = "all"
    after: tuple[str, ...] = ()


class InputDims(NamedTuple):
    """Sizes of a `TowerInput`; towers that read one vector a row take the integer ``x`` alone.

    Attributes:
        x: width D of ``x_BD``.
        fields: names of the F field embeddings.
        field_dim: their common width E.
        sequences: behaviour -> length L of its padded sequence.
    """

    x: int
    fields: tuple[str, ...] = ()
    field_dim: int = 0
    sequences: Mapping[str, int] = {}


class TowerInput(NamedTuple):
    """A batch for towers whose `requires` is not empty.

    Attributes:
        x_BD: dense features and pooled embeddings, ``(B, D)``.
        fields_BFE: one embedding for each field, ``(B, F, E)``.
        sequences: behaviour -> (``(B, L, E)`` padded with zeros, ``(B,)`` lengths).
        target_BE: embedding of the item that the row is about, ``(B, E)``.
        task_x_BTD: an input of its own for each task, ``(B, T, D)``.
    """

    x_BD: Tensor
    fields_BFE: Tensor | None = None
    sequences: Mapping[str, tuple[Tensor, Tensor]] | None = None
    target_BE: Tensor | None = None
    task_x_BTD: Tensor | None = None


def input_width(in_dim: int | InputDims) -> int:
    """Width D of the vector ``x_BD``.

    Example:
        >>> input_width(16), input_width(InputDims(x=16, fields=("user_id",), field_dim=8))
        (16, 16)
    """
    width = in_dim.x if isinstance(in_dim, InputDims) else in_dim
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"`in_dim` must be a positive integer or `InputDims`, got {in_dim!r}.")
    return width


def task_slots(tasks: Sequence[str | TaskSlot]) -> tuple[TaskSlot, ...]:
    """Tasks as slots, checked: distinct usable names, known and acyclic relations.

    Args:
        tasks: names, or slots where a task needs more than one logit, a group or predecessors.

    Raises:
        ValueError: with every problem found, one a line.

    Example:
        >>> task_slots(["click", TaskSlot("stars", outputs=5)])[0]
        TaskSlot(name='click', outputs=1, group='all', after=())
    """
    if isinstance(tasks, str):
        raise ValueError(f"`tasks` must be a sequence of task names, got the string {tasks!r}.")  # noqa: TRY004
    slots = tuple(TaskSlot(task) if isinstance(task, str) else TaskSlot(*task) for task in tasks)
    problems = [] if slots else ["`tasks` must name at least one task."]
    names = [slot.name for slot in slots]
    for i, slot in enumerate(slots):
        problems += _name_problems("task", slot.name)
        problems += _name_problems("group", slot.group)
        if slot.name in names[:i]:
            problems.append(f"task `{slot.name}` is declared twice.")
        if isinstance(slot.outputs, bool) or not isinstance(slot.outputs, int) or slot.outputs < 1:
            problems.append(
                f"task `{slot.name}`: `outputs` must be a positive integer, got {slot.outputs!r}."
            )
        problems += [
            f"task `{slot.name}`: `after` names `{other}`, which is no task.{suggest(other, names)}"
            for other in slot.after
            if other not in names
        ]
    if not problems and (left := _cyclic(slots)):
        problems.append(
            f"tasks {', '.join(f'`{name}`' for name in left)} come after one another in a circle; "
            "remove one of their `after` entries."
        )
    if problems:
        raise ValueError("\n".join(problems))
    return slots


def groups_of(slots: Sequence[TaskSlot]) -> tuple[str, ...]:
    """Names of the tasks' groups, each once, in the order of the alphabet, whatever the tasks'.

    Example:
        >>> groups_of((TaskSlot("click", group="act"), TaskSlot("stay", group="watch")))
        ('act', 'watch')
    """
    return tuple(sorted({slot.group for slot in slots}))


# A task's parameters are attributes of a ParameterDict, so its name must not hide a method of it.
_RESERVED = frozenset(dir(nn.ModuleDict())) | frozenset(dir(nn.ParameterDict()))


def _name_problems(what: str, name: str) -> list[str]:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return [f"{what} name {name!r} must be an identifier: letters, digits, underscores."]
    if name in _RESERVED:
        return [
            f"{what} name `{name}` is an attribute of torch's ModuleDict or ParameterDict, where "
            f"the {what}'s parameters are kept; rename it, for example to `is_{name}`."
        ]
    return []


def _cyclic(slots: Sequence[TaskSlot]) -> list[str]:
    """Names of the tasks that cannot be put into an order, none where there is no circle."""
    waiting = {slot.name: set(slot.after) for slot in slots}
    while ready := [name for name, after in waiting.items() if not after & waiting.keys()]:
        for name in ready:
            del waiting[name]
    return list(waiting)
