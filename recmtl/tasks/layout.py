"""Where each task stands in the logits, in the computation and in what is predicted.

Shape letters: S heads with one logit, P products, F factors of a product, O columns of what is
predicted. Standard library only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from recmtl.tasks.definition import TaskDef

__all__ = ["TaskLayout", "lay_out", "side_by_side"]


class TaskLayout(NamedTuple):
    """The order of computation, and the way to it and back.

    Heads with one logit come first, then those of several classes, then products.
    """

    order: tuple[int, ...]
    """Tasks in the order of computation, as positions in the order given."""
    singles: tuple[TaskDef, ...]
    """Tasks whose head has one logit."""
    single_S: list[int]
    """Their logits."""
    classes: tuple[slice, ...]
    """Logits of each multiclass task."""
    factor_PF: list[list[int]]
    """Logits that each product multiplies, padded with 0 to the longest."""
    real_PF: list[list[bool]]
    """Which of them are no padding."""
    to_columns_O: list[int]
    """Column in the order of computation of each column in the order given."""


def lay_out(tasks: Sequence[TaskDef], factors: Mapping[str, Sequence[str]]) -> TaskLayout:
    """Lay tasks out.

    Args:
        tasks: the tasks in their order; logits of their heads stand side by side in it.
        factors: product -> the heads that it multiplies.
    """

    def rank(t: int) -> int:
        return 2 if tasks[t].product_of else int(tasks[t].kind == "multiclass")

    order = sorted(range(len(tasks)), key=rank)  # stable
    computed = [tasks[t] for t in order]
    logits = side_by_side([task for task in tasks if not task.product_of])
    singles = tuple(t for t in computed if not t.product_of and t.kind != "multiclass")
    products = [[logits[f].start for f in factors[t.name]] for t in computed if t.name in factors]
    longest = max(map(len, products), default=0)
    columns = side_by_side(computed)
    return TaskLayout(
        order=tuple(order),
        singles=singles,
        single_S=[logits[task.name].start for task in singles],
        classes=tuple(logits[task.name] for task in computed if task.kind == "multiclass"),
        factor_PF=[heads + [0] * (longest - len(heads)) for heads in products],
        real_PF=[[k < len(heads) for k in range(longest)] for heads in products],
        to_columns_O=[
            column
            for task in tasks
            for column in range(columns[task.name].start, columns[task.name].stop)
        ],
    )


def side_by_side(tasks: Sequence[TaskDef]) -> dict[str, slice]:
    """Where the columns of each task are.

    Example:
        >>> stars = TaskDef(name="rating", label="stars", kind="multiclass", classes=5)
        >>> side_by_side([stars, TaskDef(name="ctr", label="click")])
        {'rating': slice(0, 5, None), 'ctr': slice(5, 6, None)}
    """
    stops = list(itertools.accumulate(task.outputs for task in tasks))
    return {
        task.name: slice(stop - task.outputs, stop) for task, stop in zip(tasks, stops, strict=True)
    }
