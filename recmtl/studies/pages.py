"""A comparison as Markdown and as one HTML page without scripts or links."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from recmtl.studies.contestants import SINGLE_TASK
from recmtl.studies.page_parts import markdown_end, markdown_table, rendered, text_table
from recmtl.studies.plots import Dot, cost_plot, intervals_plot
from recmtl.studies.verdicts import number, sentences, short, signed

__all__ = ["as_html", "as_markdown", "as_text", "rows_of"]

Summary = Mapping[str, Any]


def as_markdown(summary: Summary) -> str:
    """The table, what can be told apart, and how it came about."""
    head, rows = rows_of(summary)
    lines = [f"# {summary['name']}: {len(summary['contestants'])} contestants", ""]
    lines += [f"{line}\n" for line in [*_caveats(summary), *sentences(summary)]]
    lines += markdown_table(head, rows)
    for task, (names, cells) in _metric_tables(summary).items():
        lines += ["", f"## {task}: all metrics, means over seeds", ""]
        lines += markdown_table(["contestant", *names], cells)
    lines += markdown_end("What the columns are", _notes(summary), _origin(summary))
    return "\n".join(lines) + "\n"


def as_html(summary: Summary) -> str:
    """The same as a page, with plots."""
    return rendered(
        "compare.html",
        name=summary["name"],
        summary=summary,
        caveats=_caveats(summary),
        sentences=sentences(summary),
        rows=[_cells(contestant, summary) for contestant in summary["contestants"]],
        metrics=_metric_tables(summary),
        reference=any(c["name"] == SINGLE_TASK for c in summary["contestants"]),
        notes=_notes(summary),
        origin=_origin(summary),
        plots=[plot for task in summary["tasks"] for plot in _plots(task, summary)],
    )


def rows_of(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """The table's head, and a row for each contestant."""
    tasks = summary["tasks"]
    has_reference = any(c["name"] == SINGLE_TASK for c in summary["contestants"])
    head = ["contestant"]
    for task, about in tasks.items():
        head.append(f"{task} {about['metric'].upper()}")
        head += [f"{task} less {SINGLE_TASK}"] if has_reference else []
    head += ["parameters", "FLOPs/row", "rows/s"]
    rows = []
    for contestant in summary["contestants"]:
        row = [contestant["name"]]
        for task in tasks:
            found = contestant["tasks"].get(task)
            row.append("-" if found is None else _mean(found))
            if has_reference:
                row.append("-" if found is None else _difference(found["vs_single_task"]))
        rows.append([*row, *_costs(contestant["cost"])])
    return head, rows


def _metric_tables(summary: Summary) -> dict[str, tuple[list[str], list[list[str]]]]:
    """By task: names of the metrics, and a row for each contestant."""
    tables = {}
    for task in summary["tasks"]:
        found = {
            c["name"]: c["tasks"][task]["metrics"]
            for c in summary["contestants"]
            if task in c["tasks"]
        }
        names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
        tables[task] = (
            [name.replace("_", " ") for name in names],
            [
                [who, *(_metric(metrics.get(name)) for name in names)]
                for who, metrics in found.items()
            ],
        )
    return tables


def _metric(value: float | None) -> str:
    """A count as it is, any other number with four digits.

    Example:
        >>> _metric(2000), _metric(0.25), _metric(None)
        ('2,000', '.2500', '-')
    """
    return f"{value:,}" if isinstance(value, int) else number(value)


def _cells(contestant: Mapping[str, Any], summary: Summary) -> dict[str, Any]:
    """A row of the page's table: a task's mean stands above its difference."""
    tasks = [contestant["tasks"].get(task) for task in summary["tasks"]]
    return {
        "name": contestant["name"],
        "is_baseline": contestant["is_baseline"],
        "tasks": [
            ("-", "") if found is None else (_mean(found), _difference(found["vs_single_task"]))
            for found in tasks
        ],
        "costs": _costs(contestant["cost"]),
    }


def _mean(found: Mapping[str, Any]) -> str:
    half = found["half_width"]
    return number(found["mean"]) + (f" ± {number(half)}" if half is not None else "")


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    interval = difference["interval"]
    text = signed(difference["value"])
    return text if interval is None else f"{text} [{signed(interval[0])}, {signed(interval[1])}]"


def _costs(cost: Mapping[str, Any] | None) -> list[str]:
    if cost is None:
        return ["-"] * 3
    parameters = f"{short(cost['table_parameters'])} + {short(cost['dense_parameters'])}"
    return [parameters, short(cost["flops_per_row"]), f"{cost['rows_per_s']:,.0f}"]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _caveats(summary: Summary) -> list[str]:
    """What has to be known before the first number is read."""
    found = []
    if summary["rows"]["is_validation"]:
        found.append(
            "**Judged on the validation rows, by which the best checkpoint of each run was chosen"
            " too: every number is a little too good. `--test` takes rows that chose nothing.**"
        )
    if summary["seeds"] == 1:
        found.append(
            "**One seed: the intervals are those of other users; what another seed would make of it"
            " is not in them.**"
        )
    failed = [f"{failure['name']}: {failure['message']}" for failure in summary["failed"]]
    found += [f"**Failed:** {words}" for words in failed]
    return found + [f"Left out: {words}" for words in summary["left_out"]]


def _notes(summary: Summary) -> list[str]:
    groups = summary["groups"]
    units = f"values of `{groups['by']}`" if groups["by"] else "rows, as the spec has no `group_by`"
    runs, threads = _counted(summary["jobs"], "run"), _counted(summary["threads"], "thread")
    notes = [
        f"AUC (RMSE, log loss): the mean over {_counted(summary['seeds'], 'seed')}, ± half of its"
        " 95 % interval by Student's t. A conditional task is judged where its condition holds.",
        "A difference is paired: the same rows, the same seeds. Metrics of models are compared and"
        " then averaged over seeds, as one model is what will serve; averaged scores would be"
        " those of an ensemble.",
        f"Its interval holds 95 % of what chance would do, from two sides: {summary['resamples']:,}"
        f" resamples of the {groups['count']:,} {units}, with the models as they are, and the"
        " variance between seeds, on the rows as they are; the variances add up.",
        "A tie is a difference whose interval holds 0: it says that these rows and seeds cannot"
        " tell two models apart, not that they are equal. Each interval is at 95 % by itself; of"
        " twenty differences that are none, one will look like one.",
        "Parameters: numbers in embedding tables + numbers in all other layers. FLOPs/row: of the"
        " dense part's products in a forward pass. rows/s: of training, with"
        f" {runs} at a time and {threads} each.",
    ]
    names = [c["name"] for c in summary["contestants"]]
    if SINGLE_TASK in names:
        notes.append(
            "`single_task`: for every task a shared-bottom model of its own; its costs are those"
            " of all of them together. `additive`: logits that are linear in embeddings and"
            " numbers, so that no feature changes what another one says."
        )
    return notes


def _origin(summary: Summary) -> list[tuple[str, str]]:
    rows = summary["rows"]
    where = "the validation rows" if rows["is_validation"] else f"`{rows['path']}`"
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        ("command", f"`{summary['command']}`"),
        ("judged on", f"{where}, {rows['count']:,} rows"),
        ("training rows", f"{summary['training_rows']:,}"),
        ("date", summary["date"]),
        ("machine", summary["machine"]),
        ("versions", versions),
        ("spec", f"sha256 {summary['spec']}"),
    ]


def _plots(task: str, summary: Summary) -> list[str]:
    metric = summary["tasks"][task]["metric"].upper()
    there = [
        c for c in summary["contestants"] if (c["tasks"].get(task) or {}).get("mean") is not None
    ]
    dots = [_dot(c, c["tasks"][task]["mean"], _around(c["tasks"][task])) for c in there]
    plots = [intervals_plot(task, metric, dots)] if dots else []
    differences = [
        _dot(c, found["value"], found["interval"])
        for c in there
        if (found := c["tasks"][task]["vs_single_task"]) is not None
    ]
    if differences:
        plots.append(intervals_plot(task, metric, differences, SINGLE_TASK))
    costs = [_flops(c) for c in there]
    known = [(dot, cost) for dot, cost in zip(dots, costs, strict=True) if cost > 0]
    if known:
        plots.append(cost_plot(task, metric, *map(list, zip(*known, strict=True))))
    return plots


def _flops(contestant: Mapping[str, Any]) -> float:
    return float(contestant["cost"]["flops_per_row"]) if contestant["cost"] is not None else 0.0


def _around(found: Mapping[str, Any]) -> Sequence[float] | None:
    mean, half = found["mean"], found["half_width"]
    return None if half is None else (mean - half, mean + half)


def _dot(contestant: Mapping[str, Any], value: float, ends: Sequence[float] | None) -> Dot:
    low, high = (None, None) if ends is None else ends
    return Dot(contestant["name"], value, low, high, contestant["is_baseline"])


def as_text(summary: Summary) -> Sequence[str]:
    """What the command line says: the words, and the table in columns."""
    head, rows = rows_of(summary)
    words = [re.sub(r"\*\*", "", line) for line in [*_caveats(summary), *sentences(summary)]]
    return [*text_table(head, rows), "", *words]
