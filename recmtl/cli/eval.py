"""`recmtl eval RUN --data PATH`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import calibrated_option, debug_option, emit, json_option

__all__ = ["command"]

_SHOWN = (
    *("n", "positives", "auc", "gauc", "logloss", "ne", "pcoc", "ece"),
    *("accuracy", "rmse", "mae"),
)


@click.command("eval")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Parquet or CSV: file, folder or glob with labels.",
)
@click.option(
    "--by",
    help="Column for whose values metrics are given separately (default: the spec's `segments`).",
)
@click.option(
    "--sampled",
    is_flag=True,
    help="The rows were thinned as the spec's `data.sampled` says (default: they are all there "
    "are).",
)
@calibrated_option
@json_option
@debug_option
def command(
    run: Path, data: Path, by: str | None, sampled: bool, calibrated: bool, as_json: bool
) -> None:
    """Metrics of each task, always with the rows that they are computed on."""
    from recmtl import api

    result = api.evaluate(
        run, data, by=by, sampled=sampled, calibrated=calibrated, progress=terminal_progress()
    )
    for task, rows in result["contradictions"].items():
        if rows:
            click.echo(
                f"warning: task `{task}`: {rows:,} of {result['rows']:,} rows are positive although"
                f" its condition is 0. No metric of `{task}` counts them; repair the labels.",
                err=True,
            )
    lines = [f"{result['rows']:,} rows", "", *table(result["tasks"])]
    for column, values in result["segments"].items():
        for value, tasks in values.items():
            lines += ["", f"{column} = {value}", *table(tasks)]
    emit(result, as_json=as_json, text="\n".join(lines))


def table(tasks: dict[str, dict[str, Any]]) -> list[str]:
    """Metrics of several tasks as lines of text, a task a line; undefined values show as a dash."""
    shown = [name for name in _SHOWN if any(name in metrics for metrics in tasks.values())]
    width = max(len(name) for name in [*tasks, "task"]) + 2
    columns = [[name, *(_cell(name, of.get(name)) for of in tasks.values())] for name in shown]
    wide = [max(10, 2 + max(map(len, cells))) for cells in columns]
    lines = []
    for first, *cells in zip(["task", *tasks], *columns, strict=True):
        line = "".join(f"{cell:>{w}}" for cell, w in zip(cells, wide, strict=True))
        lines.append(f"{first:{width}}{line}")
    return lines


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if name in ("n", "positives") else f"{value:.4f}"
