"""The difference of two runs as text, as Markdown, and as an HTML page without scripts or links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recmtl.studies.diff_plots import features_plot, moves_plot
from recmtl.studies.page_parts import markdown_end, markdown_table, rendered, text_table
from recmtl.studies.plots import Dot, intervals_plot
from recmtl.studies.standings import HEADLINE
from recmtl.studies.verdicts import number, signed

__all__ = ["as_html", "as_markdown", "as_text"]

Summary = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]
_HEAD = ("metric", "A", "B", "B - A", "95 % interval", "B is")
_MOST_FEATURES = 8


def as_text(summary: Summary) -> list[str]:
    """What the command line says."""
    lines = [f"A: {summary['a']['run']}", f"B: {summary['b']['run']}"]
    lines.append(f"{summary['rows']:,} rows, drawn by {_units(summary)}")
    lines += [
        "",
        *(re.sub(r"\*\*", "", line) for line in [*_caveats(summary), *_sentences(summary)]),
    ]
    for task, told in summary["tasks"].items():
        lines += ["", _title(task, told), *text_table(_HEAD, _rows(told))]
        for table in _segments(task, told, summary).values():
            lines += ["", *text_table(*table)]
    return lines


def as_markdown(summary: Summary) -> str:
    """The same with all segments, features and how it came about."""
    lines = ["# B less A", "", f"A: `{summary['a']['run']}`", "", f"B: `{summary['b']['run']}`", ""]
    lines += [f"{line}\n" for line in [*_caveats(summary), *_sentences(summary)]]
    for task, told in summary["tasks"].items():
        lines += [f"## {_title(task, told)}", "", *markdown_table(_HEAD, _rows(told)), ""]
        lines += markdown_table(("score of B less that of A", ""), _moves(told["moves"]))
        if told["features"]:
            lines += ["", *markdown_table(("feature", "share"), _features(told))]
        for table in _segments(task, told, summary).values():
            lines += ["", *markdown_table(*table)]
        lines.append("")
    lines += markdown_end("What the words mean", _notes(summary), _origin(summary))[1:]
    return "\n".join(lines) + "\n"


def as_html(summary: Summary) -> str:
    """The same as a page, with plots."""
    return rendered(
        "diff.html",
        name="B less A",
        summary=summary,
        caveats=_caveats(summary),
        sentences=_sentences(summary),
        head=_HEAD,
        tasks=[
            {
                "title": _title(task, told),
                "rows": _rows(told),
                "moves": _moves(told["moves"]),
                "features": _features(told),
                "plots": _plots(task, told, summary),
                "segments": _segments(task, told, summary),
            }
            for task, told in summary["tasks"].items()
        ],
        notes=_notes(summary),
        origin=_origin(summary),
    )


def _title(task: str, told: Mapping[str, Any]) -> str:
    positives = f", {told['positives']:,} of them positive" if "positives" in told else ""
    return f"{task}: {told.get('n', 0):,} rows{positives}"


def _rows(told: Mapping[str, Any]) -> list[list[str]]:
    """A row for each metric, then for each mean score."""
    rows = [
        [
            name,
            number(entry["a"]),
            number(entry["b"]),
            *_difference(entry, signed),
            entry["verdict"] or "",
        ]
        for name, entry in told["metrics"].items()
    ]
    scores = told["scores"] if isinstance(told["scores"], list) else [told["scores"]]
    for c, entry in enumerate(scores):
        name = "mean score" if len(scores) == 1 else f"mean of class {c}"
        ratio = "" if entry["ratio"] is None else f"x {entry['ratio']:.4f}"
        means = [_digits(entry["a"]), _digits(entry["b"])]
        rows.append([name, *means, *_difference(entry, _signed_digits), ratio])
    return rows


def _difference(entry: Mapping[str, Any], signed: Any) -> list[str]:
    if entry["difference"] is None:
        return ["-", "-"]
    interval = entry["interval"]
    ends = "-" if interval is None else f"[{signed(interval[0])}, {signed(interval[1])}]"
    return [signed(entry["difference"]), ends]


def _segments(task: str, told: Mapping[str, Any], summary: Summary) -> dict[str, Table]:
    """By column: the main metric, calibration and the mean score, a row for each value."""
    metric = HEADLINE[told["kind"]]
    has_pcoc = "pcoc" in told["metrics"]
    head = ["rows", f"{metric} A", "B", "B - A", "95 % interval", "B is"]
    head += ["pcoc A", "B"] if has_pcoc else []
    tables = {}
    for column, values in summary["segments"].items():
        rows = []
        for value, by_task in values.items():
            found = by_task[task]
            entry, scores = found["metrics"][metric], found["scores"]
            row = [value, f"{found['n']:,}", number(entry["a"]), number(entry["b"])]
            row += [*_difference(entry, signed), entry["verdict"] or ""]
            if has_pcoc:
                row += [number(found["metrics"]["pcoc"][which]) for which in ("a", "b")]
            ratio = None if isinstance(scores, list) else scores["ratio"]
            rows.append([*row, "-" if ratio is None else f"x {ratio:.3f}"])
        tables[column] = ([column, *head, "scores"], rows)
    return tables


def _moves(moves: Mapping[str, Any]) -> list[list[str]]:
    """The distribution of the differences of scores."""
    if not moves["rows"]:
        return []
    quantiles = {f"{100 * float(q):g} %": v for q, v in moves["quantiles"].items()}
    rows = [["mean of the size", _digits(moves["mean_absolute"])]]
    rows += [["rows scored higher", f"{moves['up']:.1%}"], ["lower", f"{moves['down']:.1%}"]]
    return [*rows, *([name, _signed_digits(value)] for name, value in quantiles.items())]


def _features(told: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, f"{share:.1%}"] for name, share in list(told["features"].items())[:_MOST_FEATURES]
    ]


def _sentences(summary: Summary) -> list[str]:
    """One paragraph for each task: what B does better and worse, its scores, what moved them."""
    return [_sentence(task, told) for task, told in summary["tasks"].items()]


def _sentence(task: str, told: Mapping[str, Any]) -> str:
    words = []
    for verdict in ("better", "worse"):
        named = [
            f"{name} ({signed(entry['difference'])})"
            for name, entry in told["metrics"].items()
            if entry["verdict"] == verdict
        ]
        if named:
            words.append(f"B is {verdict} in {', '.join(named)}.")
    ties = [name for name, entry in told["metrics"].items() if entry["verdict"] == "tie"]
    if ties:
        words.append(f"These rows cannot tell them apart in {', '.join(ties)}.")
    pcoc = told["metrics"].get("pcoc", {"interval": None})
    if pcoc["interval"] is not None and not pcoc["interval"][0] <= 0 <= pcoc["interval"][1]:
        words.append(f"`pcoc` goes from {number(pcoc['a'])} to {number(pcoc['b'])}.")
    scores = told["scores"]
    if not isinstance(scores, list) and scores["ratio"] is not None:
        words.append(f"The mean score goes from {_digits(scores['a'])} to {_digits(scores['b'])}.")
    moved = [f"`{name}` ({share:.0%})" for name, share in list(told["features"].items())[:3]]
    if moved:
        words.append(f"What moved the scores most: {', '.join(moved)}.")
    return f"**{task}**: {' '.join(words)}"


def _caveats(summary: Summary) -> list[str]:
    """What has to be known before the first number is read."""
    found = [f"**Not compared:** `{task}`: {why}." for task, why in summary["apart"].items()]
    found += [
        f"**{count:,} rows of `{task}` are positive although its condition is 0.** No metric of it"
        " counts them; repair the labels."
        for task, count in summary["contradictions"].items()
        if count
    ]
    return [*found, *summary["notes"]]


def _units(summary: Summary) -> str:
    groups = summary["groups"]
    if groups["is_part"]:
        what = f"values of `{groups['by']}`" if groups["by"] else "rows"
        return f"{groups['units']:,} random parts of the {what}"
    return f"`{groups['by']}`" if groups["by"] else "row"


def _notes(summary: Summary) -> list[str]:
    return [
        "Every difference is B less A, on the same rows; a conditional task is judged where its"
        " condition holds.",
        f"An interval holds 95 % of what other users would make of it: {summary['resamples']:,}"
        f" resamples, drawn by {_units(summary)}, the same for both, with the models as they are."
        " It says nothing of what another seed would make of either model.",
        "A tie is a difference whose interval holds 0: these rows cannot tell the two apart. Each"
        " interval is at 95 % by itself; of twenty differences that are none, one will look like"
        " one.",
        "`pcoc` is the mean score over the share of positives, 1 where they agree: neither model is"
        " better by having more. Bins of `ece` are those of all rows in every resample.",
        "Mean scores, and the distribution of their differences, are those of all rows, labelled or"
        " not; of classes the difference is half of the sum over the classes.",
        "A feature's share is that of the variance of B's score less A's (log-odds) in which it"
        " takes part: what changes when it has another row's values in both models"
        f" ({summary['sample_rows']:,} rows; Jansen 1999). Shares of features that act together"
        " overlap, and may add up to more than 1.",
    ]


def _origin(summary: Summary) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return [
        ("command", f"`{summary['command']}`"),
        ("rows", f"`{summary['data']['path']}`, {summary['rows']:,}"),
        ("model A", f"sha256 {summary['a']['model']}"),
        ("model B", f"sha256 {summary['b']['model']}"),
        ("date", summary["date"]),
        ("machine", summary["machine"]),
        ("versions", versions),
    ]


def _plots(task: str, told: Mapping[str, Any], summary: Summary) -> list[str]:
    histogram = told["moves"].get("histogram", {"edges": [0.0], "rows": []})
    has_moved = histogram["edges"][0] < histogram["edges"][-1]
    plots = [moves_plot(task, histogram)] if has_moved else []
    if told["features"]:
        plots.append(features_plot(task, dict(list(told["features"].items())[:_MOST_FEATURES])))
    metric = HEADLINE[told["kind"]]
    for column, values in summary["segments"].items():
        dots = [
            Dot(value, entry["difference"], *(entry["interval"] or (None, None)))
            for value, by_task in values.items()
            if (entry := by_task[task]["metrics"][metric])["difference"] is not None
        ]
        if dots:
            plots.append(intervals_plot(f"{task} by {column}", metric.upper(), dots, "A"))
    return plots


def _digits(value: float | None) -> str:
    """A score for a table.

    Example:
        >>> _digits(0.00123456), _digits(None)
        ('0.001235', '-')
    """
    return "-" if value is None else f"{value:.4g}"


def _signed_digits(value: float) -> str:
    return f"{value:+.3g}"
