"""The errors that users see: where, what is wrong, expected and got, and what to do."""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = ["CheckpointError", "DataError", "MissingExtraError", "RecMTLError", "SpecError"]


class RecMTLError(ValueError):
    """Base class of every error that recmtl raises for its users.

    Attributes:
        exit_code: what the command line exits with when this error ends it.

    Example:
        >>> SpecError("features: no feature is declared.").exit_code
        2
    """

    exit_code: ClassVar[int] = 1

    @classmethod
    def all_of(cls, problems: list[str]) -> RecMTLError:
        """One error that lists every problem found, one a line.

        Example:
            >>> print(DataError.all_of(["a.parquet: column `x` is missing.", "b.parquet: empty."]))
            a.parquet: column `x` is missing.
            b.parquet: empty.
        """
        return cls("\n".join(problems))

    def at(self, where: str) -> Self:
        """The same problems, each after the place where they were met.

        Example:
            >>> print(DataError("column `x` is missing.").at("a.parquet"))
            a.parquet: column `x` is missing.
        """
        return type(self)("\n".join(f"{where}: {line}" for line in str(self).splitlines()))


class SpecError(RecMTLError):
    """The spec, an override or an argument is wrong."""

    exit_code: ClassVar[int] = 2


class DataError(RecMTLError):
    """A file or its content does not fit the spec."""

    exit_code: ClassVar[int] = 3


class MissingExtraError(RecMTLError):
    """A dependency is absent, or does not fit another one that is installed."""

    exit_code: ClassVar[int] = 4


class CheckpointError(RecMTLError):
    """A run or checkpoint is corrupt, foreign, or does not fit the spec or the data."""

    exit_code: ClassVar[int] = 5
