"""A search as words, as Markdown and as one HTML page without scripts or links."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from recmtl.spec.dump import one_line
from recmtl.studies.page_parts import markdown_end, markdown_table, rendered, text_table
from recmtl.studies.search import Choices
from recmtl.studies.tune_plots import Point, course_plot, key_plot
from recmtl.studies.verdicts import number, signed

__all__ = ["as_html", "as_markdown", "as_text"]

Summary = Mapping[str, Any]

_CHANGES = ["key", "as it stands", "best trial"]
_SHOWN_FAILURES = 5


def as_markdown(summary: Summary) -> str:
    """What was found, every trial, and how it came about."""
    head, rows = _table(summary)
    lines = [f"# {summary['name']}: {len(summary['trials'])} trials", ""]
    lines += [f"{line}\n" for line in [*_caveats(summary), *_sentences(summary)]]
    if changes := _changes(summary):
        lines += [*markdown_table(_CHANGES, changes), ""]
    lines += ["## Trials, best first", "", *markdown_table(head, rows)]
    lines += markdown_end("What the words mean", _notes(summary), _origin(summary))
    return "\n".join(lines) + "\n"


def as_html(summary: Summary) -> str:
    """The same as a page, with plots."""
    head, rows = _table(summary)
    return rendered(
        "tune.html",
        name=summary["name"],
        summary=summary,
        caveats=_caveats(summary),
        sentences=_sentences(summary),
        changes=_changes(summary),
        head=head,
        rows=rows,
        notes=_notes(summary),
        origin=_origin(summary),
        plots=_plots(summary),
    )


def as_text(summary: Summary) -> Sequence[str]:
    """What the command line says."""
    words = [*_sentences(summary), *_caveats(summary)]
    said = [re.sub(r"\*\*", "", line) for line in words]
    changes = _changes(summary)
    return [said[0], *(text_table(_CHANGES, changes) if changes else []), *said[1:]]


def _sentences(summary: Summary) -> list[str]:
    """What it came to, and what may be made of it."""
    values, best, trials = summary["values"], summary["best"], summary["trials"]
    monitor = summary["monitor"]
    where = f"**{monitor}** on {summary['rows']['validation']:,} validation rows"
    first = f"{where}: {number(values['as_it_stands'])} as the spec stands"
    complete = sum(trial["value"] is not None for trial in trials)
    if best == 0:
        others = "none of the others was better" if complete > 1 else "no other trial has a value"
        found = [f"{first}; {others}."]
    else:
        gain = f"{signed(values['gain'])} for the better"
        found = [f"{first}, {number(values['best'])} in trial {best}, the best: {gain}."]
        found.append(
            f"These rows chose the best of {complete} trials, so its value there is too good, and"
            " the more so the more trials there were. Rows that chose nothing have to judge:"
            f" `recmtl eval {summary['run']} --data TEST`, or `recmtl compare"
            f" {summary['spec_file']} --test TEST --out DIR` over several seeds."
        )
        found.append(
            "All trials have one seed. A gain that is smaller than what another `train.seed` makes"
            " of the spec as it stands says nothing."
        )
    return found


def _caveats(summary: Summary) -> list[str]:
    """What has to be known before the first number is read."""
    found = [
        f"`{key}` was not searched, as `{text}` settles it."
        for key, text in summary["held"].items()
    ]
    if summary["outside"]:
        keys = ", ".join(f"`{key}`" for key in summary["outside"])
        found.append(
            f"The spec's own {keys} lies outside of what was searched, so trial 0 told the search"
            " nothing."
        )
    failed = summary["failed"]
    for failure in failed[:_SHOWN_FAILURES]:
        again = " The same command tries it again." if failure["again"] else ""
        found.append(f"**Trial {failure['number']} failed:** {failure['message']}{again}")
    if len(failed) > _SHOWN_FAILURES:
        found.append(f"**{len(failed) - _SHOWN_FAILURES} more trials failed**; see tune.json.")
    return found


def _changes(summary: Summary) -> list[list[str]]:
    return [
        [key, one_line(change["from"]), one_line(change["to"])]
        for key, change in summary["changed"].items()
    ]


def _table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """A row for each trial, the best first, those without a value last."""
    keys = list(summary["search"])
    sign = -1 if summary["mode"] == "max" else 1
    ranked = sorted(
        summary["trials"],
        key=lambda trial: (
            trial["value"] is None,
            0.0 if trial["value"] is None else sign * trial["value"],
            trial["number"],
        ),
    )
    head = ["trial", summary["monitor"], "s", *keys]
    return head, [
        [*_outcome(trial), *(one_line(trial["params"][k]) for k in keys)] for trial in ranked
    ]


def _outcome(trial: Mapping[str, Any]) -> list[str]:
    seconds = "-" if trial["seconds"] is None else f"{trial['seconds']:,.0f}"
    value = "failed" if trial["message"] is not None else number(trial["value"])
    return [f"{trial['number']}", value, seconds]


def _notes(summary: Summary) -> list[str]:
    return [
        f"The value of a trial is `{summary['monitor']}` of its best checkpoint on the validation"
        f" rows; {'higher' if summary['mode'] == 'max' else 'lower'} is better. Trial 0 is the spec"
        " as it stands, so the best is never worse.",
        "Ten trials are random, all later ones guesses of Optuna's tree-structured Parzen estimator"
        " (multivariate) after those before them. No trial is cut short: most specs have an epoch"
        " or two, of which the first says little about the last.",
        "The trials are no even sample: good regions are seen more often than bad ones. That is why"
        " no importance of keys is computed from them.",
        f"With {summary['jobs']} at a time, a trial builds on all before it but the last"
        f" {summary['jobs'] - 1}, whichever of them ended first, so that the same search proposes"
        " the same trials again.",
    ]


def _origin(summary: Summary) -> list[tuple[str, str]]:
    rows, versions = summary["rows"], summary["versions"]
    searched = [
        f"`{key}` ({', '.join(one_line(value) for value in entry['choices'])})"
        if "choices" in entry
        else f"`{key}` ({entry['low']:g} to {entry['high']:g}{', log' if entry['log'] else ''})"
        for key, entry in summary["search"].items()
    ]
    return [
        ("command", f"`{summary['command']}`"),
        ("searched", "; ".join(searched)),
        ("rows", f"{rows['training']:,} to train, {rows['validation']:,} to choose by"),
        ("at a time", f"{summary['jobs']}, threads each: {summary['threads']}"),
        ("date", summary["date"]),
        ("machine", summary["machine"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("spec", f"sha256 {summary['spec']}"),
    ]


def _plots(summary: Summary) -> list[str]:
    done = [trial for trial in summary["trials"] if trial["value"] is not None]
    better = max if summary["mode"] == "max" else min
    so_far = list(accumulate((trial["value"] for trial in done), better))
    monitor = summary["monitor"]
    course = [_point(trial, trial["number"], summary) for trial in done]
    plots = [course_plot(monitor, course, so_far)]
    for key, entry in summary["search"].items():
        if "choices" in entry:
            choices = Choices(key, tuple(entry["choices"]))
            places = [(trial, choices.place(trial["params"][key])) for trial in done]
            points = [_point(t, place, summary) for t, place in places if place is not None]
            labels = [one_line(value) for value in choices.values]
            plots.append(key_plot(key, monitor, points, labels=labels))
        else:
            there = [trial for trial in done if isinstance(trial["params"][key], int | float)]
            points = [_point(trial, trial["params"][key], summary) for trial in there]
            plots.append(key_plot(key, monitor, points, is_log=entry["log"]))
    return plots


def _point(trial: Mapping[str, Any], x: float, summary: Summary) -> Point:
    is_best = trial["number"] == summary["best"]
    return Point(x, trial["value"], trial["number"] == 0, is_best)
