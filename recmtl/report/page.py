"""The page: what training left in the run, as one HTML file without scripts or links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from recmtl._files import write_text
from recmtl.errors import CheckpointError
from recmtl.report import plots
from recmtl.report.summary import SUMMARY
from recmtl.run import Run

__all__ = ["write_report"]


def write_report(run: str | Path) -> Path:
    """Write `RUN/report.html` and return its path.

    Raises:
        CheckpointError: `run` is not a run, or one of its files is corrupt.
    """
    opened = Run(run)
    lines, summary = opened.metric_lines(), _summary(opened)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recmtl.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = _metric
    page = environment.get_template("report.html").render(
        name=opened.config.name,
        run=opened.path.name,
        finished=opened.finished,
        outcome=opened.summary or {},
        summary=summary,
        metrics=_metric_names(summary),
        tower=opened.config.tower.kind,
        objective=opened.config.objective.kind,
        rows=opened.encoders.num_rows,
        tables=opened.encoders.tables,
        loss=_loss_plot(lines),
        validation=_validation_plots(lines),
        reliability={
            t: plots.reliability_plot(t, c["reliability"])
            for t, c in summary.get("curves", {}).items()
        },
        histograms={
            t: plots.histogram_plot(t, c["histogram"]) for t, c in summary.get("curves", {}).items()
        },
        gates=plots.gate_plot(summary["gates"]) if summary.get("gates") else "",
        spec=(opened.path / "config.yaml").read_text(encoding="utf-8"),
        plan=_text(opened.path / "plan.txt"),
        versions=json.loads(_text(opened.path / "versions.json") or "{}"),
    )
    path = opened.path / "report.html"
    write_text(path, page)
    return path


def _summary(run: Run) -> dict[str, Any]:
    file = run.path / SUMMARY
    if not file.is_file():
        return {}
    try:
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{file}: is corrupt ({error}). Restore it, or train again."
        ) from error
    return summary


def _metric_names(summary: dict[str, Any]) -> list[str]:
    tasks = summary.get("tasks", {}).values()
    return list(dict.fromkeys(name for metrics in tasks for name in metrics))


def _loss_plot(lines: list[dict[str, Any]]) -> str:
    steps, losses = _series(lines, "train", "loss")
    return plots.loss_plot(steps, losses) if losses else ""


def _validation_plots(lines: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("auc", "logloss", "rmse"):
        steps, values = _series(lines, "valid", name)
        if values:
            found[name] = plots.metric_plot(steps, values, name)
    return found


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
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
