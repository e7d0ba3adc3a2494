"""`recmtl parity RUN --log PATH`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import debug_option, emit, json_option
from recmtl.errors import CheckpointError

__all__ = ["command"]


@click.command("parity")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    required=True,
    help="Parquet or CSV with the features as served, and the served scores.",
)
@click.option(
    "--scores-prefix",
    help="Columns of served scores are called PREFIX and the task's name (default: as `recmtl"
    " score` calls them, probs_<task> and pred_<task>).",
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-4,
    show_default=True,
    help="Largest difference, as a part of the score; 1e-6 is allowed besides.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Parquet file for the numbers of the rows that differ, and the cause of each.",
)
@json_option
@debug_option
def command(
    run: Path,
    log: Path,
    scores_prefix: str | None,
    tolerance: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score a server's log again, and name the features that the server reads differently.

    Ends with 0 where all rows agree, and with 5 where some differ by more than the tolerance,
    explained or not.
    """
    from recmtl.analysis.parity import parity

    found = parity(
        run,
        log,
        scores_prefix=scores_prefix,
        tolerance=tolerance,
        out=out,
        progress=terminal_progress(),
    )
    emit(found, as_json=as_json, text="\n".join(_lines(found)))
    if found["differ"]:
        click.get_current_context().exit(CheckpointError.exit_code)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['rows']:,} rows, {found['differ']:,} differ", ""]
    width = max(len("task"), *map(len, found["tasks"])) + 2
    lines.append(f"{'task':{width}}{'rows':>12}{'differ':>12}{'largest':>12}{'mean':>12}")
    for task, told in found["tasks"].items():
        mean = "-" if told["mean"] is None else f"{told['mean']:.2g}"
        lines.append(
            f"{task:{width}}{told['rows']:>12,}{told['differ']:>12,}{told['largest']:>12.2g}{mean:>12}"
        )
    if found["not_logged"]:
        lines.append(f"not logged: {', '.join(found['not_logged'])}")
    lines += [f"note: {said}" for said in found["types"]]
    for cause in found["causes"]:
        named = " and ".join(
            f"`{told['feature']}` {told['words']} ({told['cause']})" for told in cause["features"]
        )
        lines += ["", f"{cause['rows']:,} rows: {named}"]
        if cause["contradicted"]:
            share = f"{cause['contradicted']:.0%}"
            lines.append(f"  not every row is read so: {share} of agreeing rows would not agree")
        if cause["also"]:
            also = "; ".join(f"`{told['feature']}` {told['words']}" for told in cause["also"][:3])
            lines.append(f"  or, on the rows looked at: {also}")
        lines += [
            f"  row {example['row']:,}: "
            + ", ".join(f"{name} = {_short(value)}" for name, value in example["values"].items())
            for example in cause["examples"][:3]
        ]
    if found["unexplained"]:
        rows = ", ".join(f"{row:,}" for row in found["unexplained_examples"])
        lines += ["", f"{found['unexplained']:,} rows are not explained, such as {rows}"]
    return lines


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
