"""What a comparison says and what it does not, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recmtl.studies.contestants import SINGLE_TASK

__all__ = ["number", "sentences", "short", "signed"]

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """One paragraph for each task: who leads, who ties with the leader, who beats `single_task`."""
    return [_of_task(name, about, summary) for name, about in summary["tasks"].items()]


def _of_task(name: str, about: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    best = about["best"]
    where = f"**{name}** ({about['metric'].upper()} on {about.get('n', 0):,} rows"
    where += f", {about['positives']:,} of them positive)" if "positives" in about else ")"
    entries = {c["name"]: c["tasks"][name] for c in summary["contestants"] if name in c["tasks"]}
    if best is None:
        return f"{where}: there is no result of a multi-task model."
    extreme = "highest" if about["higher_is_better"] else "lowest"
    mean = number(entries[best]["mean"])
    words = [f"{where}: of the multi-task models, `{best}` has the {extreme} mean, {mean}."]
    rivals = {
        c["name"]: entries[c["name"]]["vs_best"]
        for c in summary["contestants"]
        if not c["is_baseline"] and c["name"] in entries and entries[c["name"]]["vs_best"]
    }
    ties = [rival for rival, difference in rivals.items() if difference["verdict"] == "tie"]
    if ties:
        words.append(f"Tied with it (the interval of the difference holds 0): {_listed(ties)}.")
    elif rivals:
        words.append("No other one ties with it.")
    against = {
        c["name"]: entries[c["name"]]["vs_single_task"]
        for c in summary["contestants"]
        if c["name"] in entries and entries[c["name"]]["vs_single_task"]
    }
    for verdict, what in (
        ("better", f"Better than `{SINGLE_TASK}`"),
        ("tie", f"Tied with `{SINGLE_TASK}`"),
        ("worse", f"Worse than `{SINGLE_TASK}`"),
    ):
        named = [
            f"`{rival}` ({signed(difference['value'])})"
            for rival, difference in against.items()
            if difference["verdict"] == verdict
        ]
        if named:
            words.append(f"{what}: {', '.join(named)}.")
    return " ".join(words)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def number(value: float | None) -> str:
    """A metric for a table.

    Example:
        >>> number(0.73124), number(12.5), number(None)
        ('.7312', '12.5000', '-')
    """
    if value is None:
        return "-"
    text = f"{value:.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-")[:2] == "0." else text


def signed(value: float) -> str:
    """A difference, with its sign.

    Example:
        >>> signed(0.0031), signed(-0.0004), signed(0.0)
        ('+.0031', '-.0004', '+.0000')
    """
    return ("-" if value < 0 else "+") + number(abs(value))


def short(value: float) -> str:
    """A large number in three digits.

    Example:
        >>> short(35016.0), short(96), short(1_250_000)
        ('35k', '96', '1.25M')
    """
    for unit, letter in _UNITS:
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.0f}"
