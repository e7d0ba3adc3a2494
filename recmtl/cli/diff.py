"""`recmtl diff RUN_A RUN_B --data PATH`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]


@click.command("diff")
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Parquet or CSV: file, folder or glob with labels.",
)
@click.option(
    "--by",
    help="Column for whose values differences are given separately (default: `segments` of both"
    " specs).",
)
@click.option(
    "--sampled",
    is_flag=True,
    help="The rows were thinned as the `data.sampled` of RUN_A's spec says (default: they are all"
    " there are).",
)
@click.option("--resamples", type=int, default=1000, show_default=True, help="For the intervals.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for diff.json, diff.md and diff.html."
)
@json_option
@debug_option
def command(
    run_a: Path,
    run_b: Path,
    data: Path,
    by: str | None,
    sampled: bool,
    resamples: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Two runs on the same rows: RUN_B less RUN_A, with intervals by user.

    For each task and segment the metrics of both and their paired difference, the shift of the mean
    score and of calibration, how far scores moved, and the features that moved them.
    """
    from recmtl.studies.diff import diff
    from recmtl.studies.diff_pages import as_text

    summary = diff(
        run_a,
        run_b,
        data,
        by=by,
        sampled=sampled,
        out=out,
        resamples=resamples,
        progress=terminal_progress(),
    )
    lines = as_text(summary)
    lines += [] if out is None else ["", f"Next: open {out / 'diff.html'}"]
    emit(summary, as_json=as_json, text="\n".join(lines))
