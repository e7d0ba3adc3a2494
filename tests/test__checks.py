from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from recmtl._checks import (
    require_fraction,
    require_not_empty,
    require_not_negative,
    require_one_of,
    require_positive,
    require_widths,
    suggest,
)


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (require_positive, [1, 7], [0, -1, 1.0, True, "1"], "`n` must be a positive integer, got"),
        (require_not_negative, [0, 7], [-1, 0.0, False, None], "`n` must be an integer of at l"),
        (require_not_empty, [(1,)], [(), []], "`n` must hold at least one entry, got none"),
        (require_widths, [(), (3, 4)], [(0,), (3, -1), (2.0,)], "`n` must hold positive integers"),
        (require_fraction, [0.0, 0.999], [1.0, -0.1, math.nan], "`n` must be at least 0 and below"),
    ],
)
def test_values_are_checked_and_named(
    check: Callable[..., None], good: list[Any], bad: list[Any], message: str
) -> None:
    for value in good:
        check(n=value)
    for value in bad:
        with pytest.raises(ValueError, match=message):
            check(n=value)


def test_a_wrong_word_gets_a_suggestion() -> None:
    require_one_of(("mmoe", "ple"), kind="ple")
    expected = r"`kind` must be one of `mmoe`, `ple`, got 'mmoee'\. Did you mean `mmoe`\?"
    with pytest.raises(ValueError, match=expected):
        require_one_of(("mmoe", "ple"), kind="mmoee")
    assert suggest("zzz", ["mmoe"]) == ""
