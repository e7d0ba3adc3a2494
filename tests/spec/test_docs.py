from __future__ import annotations

import pytest

from recmtl.spec import DataSpec, StrictModel
from recmtl.spec.docs import fill_tables


class Inner(StrictModel):
    """What is inside."""

    word: str | None = None
    """One | two
    words."""


class Outer(StrictModel):
    """What is outside."""

    inner: Inner
    """The inside."""
    ratio: float = 0.5
    """A ratio."""


PAGE = """\
# Out
<!-- keys: Outer -->
<!-- end of keys -->
Words that stay.
## `in`: side
<!-- keys: Inner -->
<!-- end of keys -->
"""


def test_tables() -> None:
    assert fill_tables(PAGE, Outer).split("\n") == [
        "# Out",
        "<!-- keys: Outer -->",
        "What is outside.",
        "",
        "| key | value | default | meaning |",
        "| --- | --- | --- | --- |",
        "| `inner` | [Inner](#in-side) | required | The inside. |",
        "| `ratio` | number | `0.5` | A ratio. |",
        "<!-- end of keys -->",
        "Words that stay.",
        "## `in`: side",
        "<!-- keys: Inner -->",
        "What is inside.",
        "",
        "| key | value | default | meaning |",
        "| --- | --- | --- | --- |",
        r"| `word` | string or `null` |  | One \| two words. |",
        "<!-- end of keys -->",
        "",
    ]


def test_filling_twice_changes_nothing() -> None:
    once = fill_tables(PAGE, Outer)
    assert fill_tables(once, Outer) == once


def test_a_config_without_a_place_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"every config needs one .*, got \['Inner'\]\."):
        fill_tables(PAGE.split("Words")[0], Outer)
    with pytest.raises(ValueError, match=r"got \['DataSpec', 'Inner', 'Outer', .*\]"):
        fill_tables(PAGE, DataSpec)
