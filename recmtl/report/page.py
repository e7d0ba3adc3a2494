"""The page: what training left in the run, as one HTML file without scripts or links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from recmtl._files import write_text
from recmtl._progress import Progress, no_progress
from recmtl.analysis import Analysis, analyse
from recmtl.checkpoint.sealed import sealed_page
from recmtl.errors import CheckpointError
from recmtl.report import plots
from recmtl.report.insights import Insight, insights
from recmtl.report.summary import SUMMARY
from recmtl.run import REPORT, Run

__all__ = ["Report", "make_report", "write_report"]

_SHOWN_SEGMENTS = 30
_SECTIONS = {"rows", "tasks", "segments", "curves", "gates"}
_BESIDE = ("gauc_groups", "gauc_undefined_groups")
"""Metrics that stand below GAUC, not in a column."""


class Report(NamedTuple):
    """A page and what it is made of."""

    path: Path
    """Where the page is."""
    insights: tuple[Insight, ...]
    """What the figures say, in sentences."""
    summary: dict[str, Any]
    """See `summarise`; empty where there is none."""
    analysis: Analysis
    """See `analyse`."""


def write_report(
    run: str | Path,
    *,
    data: str | Path | None = None,
    analysis: bool = True,
    progress: Progress = no_progress,
) -> Path:
    """Write `RUN/report.html` and return its path; see `make_report`."""
    return make_report(run, data=data, analysis=analysis, progress=progress).path


def make_report(
    run: str | Path,
    *,
    data: str | Path | None = None,
    analysis: bool = True,
    progress: Progress = no_progress,
) -> Report:
    """Write `RUN/report.html`, and return it with the figures.

    Every file of a finished run is compared with its sha256 first.

    Args:
        run: the folder of a run.
        data: folder of the data (default: where it was in training).
        analysis: whether to look at validation rows once more, for conflict between tasks and the
            importance of features.
        progress: shows the rows done (see `recmtl._progress`).

    Raises:
        CheckpointError: `run` is not a run, or one of its files is corrupt.
        DataError: `data` does not hold the rows that the run was validated with.
    """
    opened = Run(run)
    if opened.finished:
        opened.verify()
    lines, summary = opened.metric_lines(), _summary(opened)
    found = Analysis(missing="It was left out (`--no-analysis`).")
    if analysis:
        found = analyse(opened, data=data, progress=progress)
    monitor, mode = opened.config.monitor, opened.config.monitor_mode
    after = {name: it["metrics"] for name, it in opened.calibration.get("after", {}).items()}
    said = insights(summary, found, lines, monitor=monitor, mode=mode, calibrated=after)
    return Report(_write(opened, lines, summary, found, said), tuple(said), summary, found)


def _write(
    opened: Run,
    lines: list[dict[str, Any]],
    summary: dict[str, Any],
    analysis: Analysis,
    said: list[Insight],
) -> Path:
    """The page itself."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recmtl.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(metric=_metric, share=_share, pieces=_pieces)
    curves = summary.get("curves", {})
    calibration = opened.calibration
    page = environment.get_template(REPORT).render(
        config=opened.config,
        run=opened.path.absolute().name,
        finished=opened.finished,
        outcome=opened.summary or {},
        summary=summary,
        said={topic: [i.sentence for i in said if i.topic == topic] for topic, _ in said},
        conflict=analysis.conflict,
        importance=[
            plots.importance_plot(task, found["metric"], found["features"])
            for task, found in (analysis.importance or {"tasks": {}})["tasks"].items()
            if found["features"]
        ],
        importance_rows=(analysis.importance or {"rows": 0})["rows"],
        missing=analysis.missing,
        metrics=_metric_names(summary),
        segments=_segments(summary),
        populations=opened.encoders.populations,
        label_scales=opened.encoders.label_scales,
        class_shares={
            name: rates
            for name, rates in opened.encoders.base_rates.items()
            if isinstance(rates, tuple)
        },
        rows=opened.encoders.num_rows,
        tables=opened.encoders.tables,
        training=_training_plots(lines),
        reliability=[
            plots.reliability_plot(task, curve["reliability"])
            for task, curve in curves.items()
            if "reliability" in curve
        ],
        calibration=calibration,
        calibrated=[
            plots.reliability_plot(task, found["reliability"])
            for task, found in calibration.get("after", {}).items()
        ],
        histograms=[
            plots.histogram_plot(task, curve["histogram"])
            for task, curve in curves.items()
            if "histogram" in curve
        ],
        classes=[
            plot
            for task, curve in curves.items()
            if "classes" in curve
            for plot in _class_plots(task, curve["classes"])
        ],
        numbers=[
            plots.numbers_plot(task, curve["numbers"])
            for task, curve in curves.items()
            if "numbers" in curve
        ],
        spec=(opened.path / "config.yaml").read_text(encoding="utf-8"),
        plan=_text(opened.path / "plan.txt"),
        warm_start=opened.warm_start,
        versions=_distinct(opened.starts),
    )
    path = opened.path / REPORT
    write_text(path, sealed_page(page + "\n"))
    return path


def _summary(run: Run) -> dict[str, Any]:
    file = run.path / SUMMARY
    summary = _json(file)
    if summary and not set(summary) >= _SECTIONS:
        raise CheckpointError(
            f"{file}: is not recmtl's (expected the keys {sorted(_SECTIONS)}). Remove it; the "
            "report then shows what else is there."
        )
    return summary


def _json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is absent."""
    try:
        found = json.loads(_text(file) or "{}")
    except ValueError as error:
        raise CheckpointError(
            f"{file}: is corrupt ({error}). Restore it, or train again."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: holds no JSON object. Restore it, or train again.")
    return found


def _distinct(starts: list[dict[str, str | None]]) -> list[tuple[str, dict[str, str]]]:
    """The versions of each start that had others than the one before, and where it went on."""
    found: list[tuple[str, dict[str, str]]] = []
    for start in starts:
        beside = ("from", "data")
        named = {name: v for name, v in start.items() if name not in beside and v is not None}
        if not found or found[-1][1] != named:
            found.append((start["from"] or "the start", named))
    return found


def _metric_names(summary: dict[str, Any]) -> list[str]:
    tasks = summary.get("tasks", {}).values()
    names = dict.fromkeys(name for metrics in tasks for name in metrics)
    return [name for name in names if name not in _BESIDE]


def _segments(summary: dict[str, Any]) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Each segment column's largest values, in the order in which they are given."""
    shown = {}
    for column, values in summary.get("segments", {}).items():
        sizes = {v: max((m["n"] for m in tasks.values()), default=0) for v, tasks in values.items()}
        largest = set(sorted(sizes, key=lambda v: -sizes[v])[:_SHOWN_SEGMENTS])
        shown[column] = [(value, tasks) for value, tasks in values.items() if value in largest]
    return shown


def _training_plots(lines: list[dict[str, Any]]) -> list[str]:
    wanted = [("train", "loss", "training loss")]
    names = ("auc", "logloss", "accuracy", "rmse")
    wanted += [("valid", name, f"validation {name}") for name in names]
    found = [(title, *_series(lines, stage, name)) for stage, name, title in wanted]
    return [plots.lines_plot(title, steps, values) for title, steps, values in found if steps]


def _class_plots(task: str, classes: dict[str, Any]) -> list[str]:
    """The three plots of a multiclass task, in one row of the page."""
    return [
        plots.shares_plot(task, classes),
        plots.confusion_plot(task, classes),
        plots.sureness_plot(task, classes["reliability"]),
    ]


def _series(
    lines: list[dict[str, Any]], stage: str, metric: str
) -> tuple[list[int], dict[str, list[float | None]]]:
    """One metric of each task over steps; segments, whose keys are longer, are left out."""
    keys = dict.fromkeys(key for line in lines for key in line)
    names = {key: key.split("/") for key in keys if key.count("/") == 2}
    tasks = {parts[1]: key for key, parts in names.items() if parts[::2] == [stage, metric]}
    seen = [line for line in lines if any(key in line for key in tasks.values())]
    return [line["step"] for line in seen], {
        task: [line.get(key) for line in seen] for task, key in tasks.items()
    }


def _metric(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def _pieces(sentence: str) -> list[tuple[bool, str]]:
    """A sentence in pieces, and whether each is a name.

    Example:
        >>> _pieces("`ctr` is calibrated.")
        [(True, 'ctr'), (False, ' is calibrated.')]
    """
    parts = enumerate(sentence.split("`"))
    return [(k % 2 == 1, text) for k, text in parts if text]


def _share(part: float, whole: float) -> str:
    """A share in words.

    Example:
        >>> _share(1, 8), _share(1, 3000), _share(0, 0)
        ('12.5 %', '0.0333 %', '-')
    """
    return f"{100 * part / whole:.3g} %" if whole else "-"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file}: is corrupt ({error}). Restore it, or train again."
        ) from error
