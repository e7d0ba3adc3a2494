"""The numbered list in `pitfalls.md` and the names of the tests agree."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent

NOT_YET = {
    *("T13", "T18", "T25", "T26", "T30"),  # methods that do not exist yet
}
"""Properties without a test of their own so far."""


def listed() -> set[str]:
    return set(re.findall(r"^- (T\d\d) ", (TESTS / "pitfalls.md").read_text(), re.M))


def in_names() -> set[str]:
    names = [
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    ]
    return {number for name in names for number in re.findall(r"(?<=_)T\d\d(?=_|$)", name)}


def test_the_list_is_whole() -> None:
    assert listed() == {f"T{number:02}" for number in range(1, 49)}


def test_every_pitfall_has_a_test() -> None:
    assert sorted(listed() - NOT_YET - in_names()) == []


def test_names_refer_to_the_list() -> None:
    assert sorted(in_names() - listed()) == []
    assert sorted(in_names() & NOT_YET) == []
