"""What all studies do with their arguments."""

from __future__ import annotations

from recmtl.errors import SpecError

__all__ = ["require_whole", "to_nobody"]


def require_whole(name: str, value: int, least: int, most: int) -> None:
    """Check an argument.

    Raises:
        SpecError: it is no whole number from `least` to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SpecError(f"{name}: must be a whole number from {least} to {most}, got {value!r}.")


def to_nobody(text: str) -> None:
    """Nobody hears it."""
