"""Logs that were thinned: what a row's labels say of how likely it was kept, and the way back.

Standard library and torch only. Shape letters: B rows, K label columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recmtl.errors import SpecError
from recmtl.tasks.definition import TaskDef, path_back

__all__ = ["Correction", "Split", "Thinning", "corrections", "log_rate", "row_rates"]

Known = Mapping[str, bool]
"""Label columns of which it is known whether they are 1."""


@dataclass(frozen=True)
class Thinning:
    """How rows were drawn: each one by itself, with a probability that its labels decide."""

    keep: tuple[tuple[str, float], ...]
    """Label columns in order, and the share that was kept of the rows where this one is the first
    that is 1."""
    otherwise: float
    """Share that was kept of the rows where none of them is 1."""

    @classmethod
    def of(cls, keep: Mapping[str, float]) -> Thinning:
        """From the shares as a spec gives them, `else` among them."""
        labels = tuple((name, float(share)) for name, share in keep.items() if name != "else")
        return cls(labels, float(keep["else"]))


class Split(NamedTuple):
    """A rate that depends on a label that another task predicts."""

    task: str
    """That task."""
    if_one: Rate
    """Rate where its label is 1."""
    if_zero: Rate
    """Rate where it is 0."""


Rate = float | Split
"""Share of rows that was kept: a number, or the mean over what a task predicts."""


class Correction(NamedTuple):
    """Rates at which the positive and the negative rows of a task were kept.

    The odds of what is left are those of all rows, times the first rate over the second.
    """

    positive: Rate
    negative: Rate

    @property
    def is_none(self) -> bool:
        """Whether nothing is to be corrected."""
        return self.positive == self.negative and isinstance(self.positive, float)


def corrections(tasks: Sequence[TaskDef], thinnings: Sequence[Thinning]) -> dict[str, Correction]:
    r"""What each head's logit has to be corrected by; heads that need nothing are left out.

    A head learns the odds of the rows that are left. Among rows of equal features, those of a label
    y were kept at the mean rate E[r | y], so that

    .. math:: \operatorname{logit} p = \operatorname{logit} p_{left} -
        \log \frac{E[r \mid y = 1]}{E[r \mid y = 0]}

    each mean over rows where the task's condition is 1. Where the label decides the rate, as a
    click does that of the click's own task, the means are numbers. Where another label does, as a
    conversion among clicked rows, its probability is that of the task that predicts it there, once
    that one is corrected itself. Products of heads need no correction of their own: they are the
    products of corrected factors.

    Reference: King and Zeng, "Logistic Regression in Rare Events Data", Political Analysis 2001,
        section 4.1 (prior correction), for one label.
    Departures: several labels, and rates that depend on a label which another task predicts.

    Args:
        tasks: all tasks.
        thinnings: how rows were drawn, one drawing after another.

    Raises:
        SpecError: a task cannot be corrected; it says which label it lacks. All problems are
            listed.

    Example:
        >>> tasks = (
        ...     TaskDef(name="ctr", label="click"),
        ...     TaskDef(name="cvr", label="conversion", given="click"),
        ... )
        >>> corrections(tasks, [Thinning((("click", 1.0),), 0.1)])
        {'ctr': Correction(positive=1.0, negative=0.1)}
        >>> corrections(tasks, [Thinning((("conversion", 1.0), ("click", 0.5)), 0.1)])["ctr"]
        Correction(positive=Split(task='cvr', if_one=1.0, if_zero=0.5), negative=0.1)
    """
    heads = [task for task in tasks if not task.product_of]
    implied = {task.label: task.given for task in tasks if task.kind == "binary" and task.given}
    found, problems = dict[str, Correction](), list[str]()

    def rate(known: Known, predictors: Sequence[TaskDef]) -> Rate:
        return _rate(known, predictors, thinnings, implied)

    for task in heads:
        given: Known = {} if task.given is None else {task.given: True}
        try:
            if task.kind == "binary":
                one, zero = (
                    rate(_closure({**given, task.label: value}, implied), tasks)
                    for value in (True, False)
                )
                found[task.name] = Correction(one, zero)
            else:
                rate(_closure(given, implied), ())
        except _UnknownError as unknown:
            problems.append(_in_words(task, unknown))
    factors = {task.name: task.product_of for task in tasks if task.product_of}

    def needs(name: str) -> Iterable[str]:
        names = {part for rates in found.get(name, ()) for part in _names(rates)}
        return sorted(factors.get(name, names))

    for task in heads:
        cycle = path_back(task.name, needs)
        if cycle and not problems:
            problems.append(
                f"task `{task.name}`: its correction needs what it predicts itself"
                f" ({' -> '.join(cycle)}). Thin by one of these labels alone."
            )
    if problems:
        raise SpecError.all_of(problems)
    return {name: one for name, one in found.items() if not one.is_none}


def log_rate(rate: Rate, logit_of: Callable[[str], Tensor]) -> Tensor | float:
    """Logarithm of a rate, `[B]` where it depends on what tasks predict.

    Args:
        rate: the rate.
        logit_of: a task's corrected logits `[B]`.
    """
    if not isinstance(rate, Split):
        return math.log(rate)
    z_B = logit_of(rate.task)
    one, zero = log_rate(rate.if_one, logit_of), log_rate(rate.if_zero, logit_of)
    return torch.logaddexp(logsigmoid(z_B) + one, logsigmoid(-z_B) + zero)


def row_rates(labels_BK: Tensor, labels: Sequence[str], thinnings: Sequence[Thinning]) -> Tensor:
    """Share of rows with these labels that was kept, ``(B,)``; a null label is not 1.

    Example:
        >>> thinned = Thinning((("click", 1.0),), 0.1)
        >>> row_rates(torch.tensor([[1.0], [0.0], [torch.nan]]), ("click",), [thinned])
        tensor([1.0000, 0.1000, 0.1000])
    """
    rate_B = torch.ones_like(labels_BK[:, 0])
    for thinning in thinnings:
        own_B = torch.full_like(rate_B, thinning.otherwise)
        for column, share in reversed(thinning.keep):
            is_one_B = labels_BK[:, labels.index(column)] == 1
            own_B = torch.where(is_one_B, share, own_B)
        rate_B = rate_B * own_B
    return rate_B


class _UnknownError(Exception):
    """A rate depends on a label of which nothing is known there."""

    def __init__(self, column: str, known: Known) -> None:
        super().__init__()
        self.column, self.known = column, known


def _rate(
    known: Known,
    tasks: Sequence[TaskDef],
    thinnings: Sequence[Thinning],
    implied: Mapping[str, str],
) -> Rate:
    """The mean rate of rows of which this is known."""
    rate = 1.0
    for thinning in thinnings:
        share = thinning.otherwise
        for column, own in thinning.keep:
            if column not in known:
                task = _predictor(column, known, tasks, implied)
                if task is None:
                    raise _UnknownError(column, known)
                one, zero = (
                    _rate(
                        _closure({**known, task.label: value}, implied), tasks, thinnings, implied
                    )
                    for value in (True, False)
                )
                return one if one == zero else Split(task.name, one, zero)
            if known[column]:
                share = own
                break
        rate *= share
    return rate


def _closure(known: Known, implied: Mapping[str, str]) -> Known:
    """What follows from it: a label that is 1 only where its condition is."""
    found, before = dict(known), -1
    while len(found) > before:
        before = len(found)
        for label, given in implied.items():
            if found.get(label) is True:
                found.setdefault(given, True)
            if found.get(given) is False:
                found.setdefault(label, False)
    return found


def _predictor(
    column: str, known: Known, tasks: Sequence[TaskDef], implied: Mapping[str, str]
) -> TaskDef | None:
    """What to ask next on the way to a column: a task that predicts its label on just these rows.

    That is the column itself, or else what it is given: a purchase given a cart, among clicked
    rows, needs the cart first.
    """
    named = [task for task in tasks if task.kind == "binary" and task.label == column]
    for task in named:
        given: Known = {} if task.given is None else {task.given: True}
        if dict(_closure(given, implied)) == dict(known):
            return task
    conditions = dict.fromkeys(task.given for task in named if task.given is not None)
    found = (
        _predictor(given, known, [t for t in tasks if t.label != column], implied)
        for given in conditions
        if given not in known
    )
    return next((task for task in found if task is not None), None)


def _names(rate: Rate) -> set[str]:
    if not isinstance(rate, Split):
        return set()
    return {rate.task} | _names(rate.if_one) | _names(rate.if_zero)


def _in_words(task: TaskDef, unknown: _UnknownError) -> str:
    where = [f"`{column}` is {int(value)}" for column, value in unknown.known.items()]
    rows = f"rows where {' and '.join(where)}" if where else "all rows"
    if task.kind != "binary":
        return (
            f"task `{task.name}`: rows of its population were thinned by `{unknown.column}`, and "
            "what it predicts may depend on that; there is no correction for it. Thin by its "
            "condition alone, or weigh rows (`data.weight`) instead."
        )
    ones = [column for column, value in unknown.known.items() if value]
    condition = f", given: {ones[-1]}" if ones else ""
    hint = f"Declare one (`{{label: {unknown.column}{condition}}}`),"
    if task.given is None and ones:
        hint += (
            f" or, if `{task.label}` is 1 only where `{unknown.column}` is, give the task `given: "
            f"{unknown.column}`,"
        )
    return (
        f"task `{task.name}`: {rows} were thinned by `{unknown.column}`, and no task predicts it "
        f"there. {hint} thin by other labels, or weigh rows (`data.weight`) instead."
    )
