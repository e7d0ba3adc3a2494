"""`recmtl score RUN --data PATH --out DIR`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import calibrated_option, debug_option, emit, json_option

__all__ = ["command"]


@click.command("score")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Parquet or CSV: file, folder or glob; no labels needed.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the scores.")
@click.option(
    "--keep", default="", help="Columns to copy, as a,b (default: the spec's `data.keep`)."
)
@click.option(
    "--tables",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="How embedding rows are kept; int8 is smallest and fastest, and rounds scores (how"
    " depends on the CPU).",
)
@calibrated_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes; they share cores and `data.memory`. The output is the same.",
)
@click.option(
    "--drift-threshold",
    type=click.FloatRange(min=0, min_open=True),
    default=0.2,
    show_default=True,
    help="Population stability index, beside the run's validation rows, to be warned of.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="End with 3 where the log drifted; the scores are written all the same.",
)
@json_option
@debug_option
def command(
    run: Path,
    data: Path,
    out: Path,
    keep: str,
    tables: Literal["fp32", "fp16", "int8"],
    calibrated: bool,
    workers: int,
    drift_threshold: float,
    strict: bool,
    as_json: bool,
) -> None:
    """Write part-00000.parquet, ... in input order, and manifest.json.

    A call that was stopped is continued by the same call, with any number of workers.
    """
    from recmtl import api
    from recmtl.errors import DataError
    from recmtl.scoring.drift import drift_lines, require_reference

    if strict:
        require_reference(run)
    columns = tuple(column.strip() for column in keep.split(",") if column.strip())
    result = api.score(
        run,
        data,
        out,
        keep=columns,
        tables=tables,
        calibrated=calibrated,
        workers=workers,
        drift_threshold=drift_threshold,
        progress=terminal_progress(),
    )
    text = f"{out}: {result.rows:,} rows in {result.parts} parts, {result.rows_per_s:,.0f} rows/s"
    emit(asdict(result), as_json=as_json, text="\n".join([text, "", *drift_lines(result.drift)]))
    over = ", ".join(result.drift["over"])
    if over and strict:
        raise DataError(
            f"{data}: drifted by more than {drift_threshold:g}: {over}. The scores in {out} are"
            " written whole. Look at `drift` in its manifest.json, or raise `--drift-threshold`."
        )
    if over:
        click.echo(f"warning: drifted by more than {drift_threshold:g}: {over}.", err=True)
