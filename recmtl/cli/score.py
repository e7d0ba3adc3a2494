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
@json_option
@debug_option
def command(
    run: Path,
    data: Path,
    out: Path,
    keep: str,
    tables: Literal["fp32", "fp16", "int8"],
    calibrated: bool,
    as_json: bool,
) -> None:
    """Write part-00000.parquet, ... in input order, and manifest.json.

    A call that was stopped is continued by the same call.
    """
    from recmtl import api

    columns = tuple(column.strip() for column in keep.split(",") if column.strip())
    result = api.score(
        run,
        data,
        out,
        keep=columns,
        tables=tables,
        calibrated=calibrated,
        progress=terminal_progress(),
    )
    text = f"{out}: {result.rows:,} rows in {result.parts} parts, {result.rows_per_s:,.0f} rows/s"
    emit(asdict(result), as_json=as_json, text=text)
