"""TaskDef, and what can be wrong with a list of them. Standard library only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from recmtl._checks import suggest
from recmtl.errors import SpecError

__all__ = ["TaskDef", "carriers", "check_tasks", "check_trained", "factors_of", "path_back"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDef:
    """One predicted outcome."""

    name: str
    """What metrics and outputs are called after."""
    label: str
    """Label column of the outcome."""
    kind: Literal["binary", "regression", "multiclass"] = "binary"
    """A probability, a number, or a probability for each of several classes."""
    classes: int | None = None
    """Number of classes of a multiclass task; its labels are 0, 1, ... below it."""
    given: str | None = None
    """Label column of the condition: the task is observed only where it is 1."""
    product_of: tuple[str, ...] = ()
    """Tasks whose probabilities multiply to this one's; such a task has no head."""
    weight: float = 1.0
    """Factor of the task's loss."""
    mean: float = 0.0
    """Mean of a regression's label: its head predicts standardised labels."""
    std: float = 1.0
    """Standard deviation of a regression's label."""

    @property
    def outputs(self) -> int:
        """Number of logits of its head, and of columns of what it predicts."""
        return self.classes or 1


def _factors(name: str, by_name: dict[str, TaskDef]) -> tuple[str, ...]:
    """The heads that multiply to the task; products of products are multiplied out."""
    task = by_name[name]
    return (
        tuple(head for f in task.product_of for head in _factors(f, by_name))
        if task.product_of
        else (name,)
    )


def factors_of(tasks: Sequence[TaskDef]) -> dict[str, tuple[str, ...]]:
    """The heads that each product multiplies, itself without a product among them."""
    by_name = {t.name: t for t in tasks}
    return {t.name: _factors(t.name, by_name) for t in tasks if t.product_of}


def carriers(
    tasks: Sequence[TaskDef],
    factors: Mapping[str, tuple[str, ...]],
    objective: Literal["tasks", "entire_space"],
) -> frozenset[str]:
    """Names of the tasks that carry loss."""
    if objective == "tasks":
        return frozenset(t.name for t in tasks if not t.product_of)
    inside = {head for heads in factors.values() for head in heads}
    return frozenset(t.name for t in tasks if t.given is None or t.name not in inside)


def check_tasks(tasks: Sequence[TaskDef], labels: Sequence[str]) -> None:
    """Raise a `SpecError` with everything that is wrong with the tasks, whatever the objective."""
    names = [t.name for t in tasks]
    problems = [] if tasks else ["tasks: no task is declared."]
    problems += [
        f"tasks: the name `{n}` is used {c} times." for n, c in Counter(names).items() if c > 1
    ]
    for task in tasks:
        where = f"task `{task.name}`"
        problems += [
            f"{where}: {key} names `{column}`, which is no label column.{suggest(column, labels)}"
            for key, column in (("label", task.label), ("given", task.given))
            if column is not None and column not in labels
        ]
        if task.given == task.label:
            problems.append(
                f"{where}: given is its own label `{task.label}`; name the column of the condition."
            )
        problems += [f"{where}: {problem}" for problem in _kind_problems(task)]
        if not (math.isfinite(task.weight) and task.weight >= 0):
            problems.append(f"{where}: weight must be a number of at least 0, got {task.weight!r}.")
        if not (math.isfinite(task.mean) and math.isfinite(task.std) and task.std > 0):
            problems.append(
                f"{where}: mean must be finite and std above 0, got {task.mean} and {task.std}."
            )
        if task.kind != "regression" and (task.mean, task.std) != (0.0, 1.0):
            problems.append(
                f"{where}: mean and std scale the label of a regression, but kind is `{task.kind}`."
            )
    problems += _condition_problems(tasks)
    problems += _product_problems({t.name: t for t in tasks})
    if problems:
        raise SpecError.all_of(problems)


def _kind_problems(task: TaskDef) -> Iterator[str]:
    if task.kind not in ("binary", "regression", "multiclass"):
        yield f"kind must be `binary`, `regression` or `multiclass`, got {task.kind!r}."
    elif task.kind != "multiclass" and task.classes is not None:
        yield f"classes is for `multiclass` tasks, but kind is `{task.kind}`."
    elif task.kind == "multiclass" and (
        isinstance(task.classes, bool) or not isinstance(task.classes, int) or task.classes < 2
    ):
        yield f"classes must be an integer of at least 2, got {task.classes!r}."


def _condition_problems(tasks: Sequence[TaskDef]) -> Iterator[str]:
    of_classes = {t.label: t.name for t in tasks if t.kind == "multiclass"}
    for task in tasks:
        if task.given in of_classes and task.given != task.label:
            yield (
                f"task `{task.name}`: given must be 0 or 1, but `{task.given}` is the label of the "
                f"multiclass task `{of_classes[task.given]}`."
            )


def _product_problems(by_name: dict[str, TaskDef]) -> list[str]:
    problems = []
    for task in by_name.values():
        if not task.product_of:
            continue
        where = f"task `{task.name}`: product_of"
        if task.kind != "binary":
            problems.append(
                f"{where} makes it a probability, so its kind must be `binary`, got {task.kind!r}."
            )
        if len(task.product_of) < 2:
            problems.append(f"{where} needs at least two factors, got {len(task.product_of)}.")
        for factor in dict.fromkeys(task.product_of):
            if factor not in by_name:
                problems.append(
                    f"{where} names `{factor}`, which is no task.{suggest(factor, by_name)}"
                )
            elif by_name[factor].kind != "binary":
                what = "regression" if by_name[factor].kind == "regression" else "multiclass task"
                problems.append(
                    f"{where} names `{factor}`, a {what}; only probabilities can be multiplied."
                )
        cycle = path_back(
            task.name, lambda name: by_name[name].product_of if name in by_name else ()
        )
        if cycle:
            problems.append(
                f"{where} leads back to itself: {' -> '.join(f'`{n}`' for n in cycle)}."
            )
    if not problems:
        for name, task in by_name.items():
            repeated = [f for f, count in Counter(_factors(name, by_name)).items() if count > 1]
            if task.product_of and repeated:
                problems.append(
                    f"task `{name}`: product_of multiplies `{repeated[0]}` more than once."
                )
    return problems


def path_back(start: str, following: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """A path from a task over those that follow it back to itself, or nothing."""
    paths: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for other in following(path[-1]):
            if other == start:
                return (*path, start)
            if other not in seen:
                seen.add(other)
                paths.append((*path, other))
    return ()


def check_trained(
    tasks: Sequence[TaskDef], factors: Mapping[str, tuple[str, ...]], carries: frozenset[str]
) -> None:
    """Raise a `SpecError` for heads without a loss of their own that no product's reaches."""
    reached = {t.name for t in tasks if t.name in carries and t.weight > 0}
    if not reached:
        raise SpecError("tasks: every weight is 0, so nothing would be trained.")
    reached |= {head for name in reached & factors.keys() for head in factors[name]}
    problems = [
        f"task `{t.name}`: nothing would train it. In the entire space it is learned through its "
        f"products, and their weight is 0: raise it, or use `objective: tasks`."
        for t in tasks
        if not t.product_of and t.name not in carries and t.name not in reached
    ]
    if problems:
        raise SpecError.all_of(problems)
