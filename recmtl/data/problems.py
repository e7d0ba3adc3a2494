"""Values that a rule forbids, counted over pieces of a log and told once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from recmtl.errors import DataError

__all__ = ["Problem", "Tally", "raise_all"]


class Problem(NamedTuple):
    """What is wrong with some values of a column."""

    column: str
    kind: str
    """Problems of one column and kind are one problem, their counts add up."""
    num_values: int
    text: str
    """What follows the count: which values, what to do."""

    def __str__(self) -> str:
        return f"column `{self.column}`: {self.num_values:,} {self.text}"


class Tally:
    """Adds up problems.

    Example:
        >>> tally = Tally()
        >>> tally.add([Problem("age", "null", 2, "values are null.")])
        >>> tally.add([Problem("age", "null", 3, "values are null.")])
        >>> tally.messages("log.parquet")
        ['log.parquet: column `age`: 5 values are null.']
    """

    def __init__(self) -> None:
        self._problems: dict[tuple[str, str], Problem] = {}

    def add(self, problems: Iterable[Problem]) -> None:
        """Take some problems in; of several texts for one kind the first one stays."""
        for problem in problems:
            key = (problem.column, problem.kind)
            before = self._problems.get(key)
            total = problem.num_values + (0 if before is None else before.num_values)
            self._problems[key] = (before or problem)._replace(num_values=total)

    def messages(self, where: str) -> list[str]:
        """One sentence a problem, each after the place."""
        return [f"{where}: {problem}" for problem in self._problems.values()]


def raise_all(problems: Iterable[Problem]) -> None:
    """Raise one DataError if there is any problem."""
    messages = [str(problem) for problem in problems]
    if messages:
        raise DataError.all_of(messages)
