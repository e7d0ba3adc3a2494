"""`recmtl explain RUN --data PATH --row N`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]

_MOST_TEXT = 36


@click.command("explain")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Parquet or CSV: file, folder or glob with the row; no labels needed.",
)
@click.option("--row", type=click.IntRange(min=0), required=True, help="Number of the row, from 0.")
@click.option("--task", help="Task to explain (default: all of them).")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    help="Rows to compare with (default: 64 of the run's validation rows).",
)
@json_option
@debug_option
def command(
    run: Path, data: Path, row: int, task: str | None, reference: Path | None, as_json: bool
) -> None:
    """What each feature of one row does to its predictions.

    One feature at a time gets the values of other rows: these are not Shapley values.
    """
    from recmtl import api

    found = api.explain(run, data, row=row, task=task, reference=reference)
    emit(found, as_json=as_json, text="\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"row {found['row']:,}, compared with {found['reference']}"]
    for name, told in found["tasks"].items():
        of = f", class {told['class']}" if "class" in told else ""
        logit = f" (logit {told['logit']:.4f})" if "logit" in told else ""
        lines += ["", f"{name}{of}: {told['prediction']:.6g}{logit}"]
        width = max(len("feature"), *(len(line["feature"]) for line in told["features"])) + 2
        what = "logit" if logit else "prediction"
        lines.append(f"{'feature':{width}}{'value':{_MOST_TEXT + 2}}change of the {what}")
        lines += [
            f"{line['feature']:{width}}{_short(line['value']):{_MOST_TEXT + 2}}"
            f"{line['change']:+.4f} +- {line['deviation']:.4f}"
            for line in told["features"]
        ]
    for level in found["gates"]:
        lines += ["", f"gates of level {level['level']}"]
        for gate, weights in level["gates"].items():
            read = ", ".join(f"{expert} {w:.2f}" for expert, w in weights.items() if w)
            lines.append(f"{gate}: {read}")
    lines += [
        "",
        "The change is what the logit does on the average when the feature has the values of the"
        " rows",
        "compared with, and all others stay as they are; below 0 the row's own value speaks for",
        "the outcome. One feature at a time: these are not Shapley values and do not add up.",
    ]
    return lines


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "-" if value is None else text
    if len(text) <= _MOST_TEXT:
        return text
    items = f" ({len(value)} items)" if isinstance(value, list) else ""
    return f"{text[: _MOST_TEXT - 3 - len(items)]}...{items}"
