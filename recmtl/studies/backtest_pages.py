"""A backtest as words, as Markdown and as one HTML page without scripts or links."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from recmtl.studies.backtest_plots import days_plot
from recmtl.studies.backtest_runs import FRESH, FROZEN, WARM
from recmtl.studies.backtest_table import undefined
from recmtl.studies.page_parts import markdown_end, markdown_table, rendered, text_table
from recmtl.studies.verdicts import number, signed

__all__ = ["as_html", "as_markdown", "as_text"]

Summary = Mapping[str, Any]

_WORDS = "What the words mean"
_COUNTS = ("n", "positives")


def as_markdown(summary: Summary) -> str:
    """The table by day, what it comes to, and how it came about."""
    lines = [f"# {summary['name']}: {_counted(summary['days'], 'day')} by `{summary['by']}`", ""]
    lines += [f"{line}\n" for line in [*_sentences(summary), *_caveats(summary)]]
    lines += markdown_table(*_table(summary))
    for task, (head, rows) in _metric_tables(summary).items():
        lines += ["", f"## {task}: all metrics", "", *markdown_table(head, rows)]
    lines += markdown_end(_WORDS, _notes(summary), _origin(summary))
    return "\n".join(lines) + "\n"


def as_html(summary: Summary) -> str:
    """The same as a page, with a plot for each task."""
    head, rows = _table(summary)
    names = [day["day"] for day in summary["days"]]
    return rendered(
        "backtest.html",
        name=summary["name"],
        title=f"{_counted(summary['days'], 'day')} by {summary['by']}",
        sentences=_sentences(summary),
        caveats=_caveats(summary),
        head=head,
        rows=rows,
        metrics=_metric_tables(summary),
        notes=_notes(summary),
        origin=_origin(summary),
        plots=[
            days_plot(task, about["metric"].upper(), names, _lines(summary, task))
            for task, about in summary["tasks"].items()
        ],
    )


def as_text(summary: Summary) -> Sequence[str]:
    """What the command line says."""
    said = [re.sub(r"\*\*", "", line) for line in [*_sentences(summary), *_caveats(summary)]]
    return [*text_table(*_table(summary)), "", *said]


def _sentences(summary: Summary) -> list[str]:
    """What it came to, for each task and contestant."""
    found = []
    for task, about in summary["tasks"].items():
        where = f"**{task}** ({about['metric'].upper()}, mean over {about['days']} days"
        if not about["days"]:
            found.append(f"**{task}**: no day defines its {about['metric'].upper()}.")
        for who, versus in about["vs_frozen"].items():
            half = versus["half_width"]
            interval = "" if half is None else f" ± {number(half)}"
            found.append(
                f"{where}): {number(about['means'][who])} `{who}`,"
                f" {number(about['means'][FROZEN])} `{FROZEN}`, a difference of"
                f" {signed(versus['value'])}{interval}; better on {versus['better_days']} of"
                f" {about['days']} days."
            )
    return found


def _caveats(summary: Summary) -> list[str]:
    """What has to be known of the days."""
    found = [*summary["notes"], *undefined(summary["days"], summary["tasks"])]
    for day in summary["days"]:
        found += [
            f"{day['day']}: {rows:,} rows are positive for `{task}` although its condition is 0; no"
            " metric of it counts them. Repair the labels."
            for task, rows in day["contradictions"].items()
            if rows
        ]
    return found


def _table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """A row for each task and day, and one for each task's mean."""
    others = [who for who in summary["contestants"] if who != FROZEN]
    head = ["task", summary["by"], "rows", "positive", "metric", FROZEN]
    for who in others:
        head += [who, f"less {FROZEN}"]
    rows = []
    for task, about in summary["tasks"].items():
        for day in summary["days"]:
            by = day["tasks"][task]
            counts = [_count(by[FROZEN].get(name)) for name in _COUNTS]
            values = {who: by[who][about["metric"]] for who in summary["contestants"]}
            start = [task, day["day"], *counts, about["metric"].upper()]
            rows.append([*start, *_cells(values, others)])
        start = [task, "mean", "", "", about["metric"].upper()]
        rows.append([*start, *_cells(about["means"], others)])
    return head, rows


def _cells(values: Mapping[str, float | None], others: Sequence[str]) -> list[str]:
    frozen = values[FROZEN]
    cells = [number(frozen)]
    for who in others:
        value = values[who]
        less = "-" if value is None or frozen is None else signed(value - frozen)
        cells += [number(value), less]
    return cells


def _metric_tables(summary: Summary) -> dict[str, tuple[list[str], list[list[str]]]]:
    """By task: names of the metrics, and a row for each day and contestant."""
    tables = {}
    for task in summary["tasks"]:
        found = [
            (day["day"], who, day["tasks"][task][who])
            for day in summary["days"]
            for who in summary["contestants"]
        ]
        names = [name for name in found[0][2] if name not in _COUNTS]
        rows = [
            [day, who, *(_metric(metrics.get(name)) for name in names)]
            for day, who, metrics in found
        ]
        tables[task] = ([summary["by"], "contestant", *names], rows)
    return tables


def _lines(summary: Summary, task: str) -> dict[str, list[float | None]]:
    metric = summary["tasks"][task]["metric"]
    return {
        who: [day["tasks"][task][who][metric] for day in summary["days"]]
        for who in summary["contestants"]
    }


def _notes(summary: Summary) -> list[str]:
    days = summary["first_days"]
    first = f"the rows of {days[0]}" if len(days) == 1 else f"the rows of {days[0]} to {days[-1]}"
    notes = [
        f"`{FROZEN}`: trained on {first}, and never again.",
        "Each row of the table is a day that no model had seen when it scored it. The last day is"
        " scored and trains nothing.",
        "A difference is that of two models on the same rows. ± is half of its 95 % interval by"
        " Student's t over the days, as if they were drawn one by one: days in a row are alike, and"
        " so the interval is rather too narrow.",
        "`data.valid` is left aside, and with it `train.monitor`, `train.patience` and the"
        " calibration of tasks: the next day judges, and the last step of each training is kept.",
    ]
    if WARM in summary["contestants"]:
        notes.insert(
            1,
            f"`{WARM}`: goes on, each day, from its model of the day before, on the rows of the day"
            f" alone; the state of the optimizers is {_STATES[summary['optimizer_state']]}.",
        )
    if FRESH in summary["contestants"]:
        notes.insert(-2, f"`{FRESH}`: trained anew, each day, on all rows so far.")
    return notes


_STATES = {"keep": "taken over", "reset": "begun anew"}


def _origin(summary: Summary) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        ("command", f"`{summary['command']}`"),
        ("scored", f"{sum(day['rows'] for day in summary['days']):,} rows"),
        ("date", summary["date"]),
        ("machine", summary["machine"]),
        ("versions", versions),
        ("spec", f"sha256 {summary['spec']}"),
    ]


def _metric(value: float | None) -> str:
    return _count(value) if isinstance(value, int) else number(value)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _counted(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'s' * (len(things) != 1)}"
