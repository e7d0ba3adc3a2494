"""`recmtl backtest SPEC --by day --out DIR [key=value ...]`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import data_option, debug_option, emit, json_option

__all__ = ["command"]


@click.command("backtest")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_option
@click.option("--by", required=True, help="Column of the day: dates, integers or strings.")
@click.option(
    "--warm/--no-warm",
    default=True,
    show_default=True,
    help="Whether a model takes part that goes on from that of the day before, on each day's rows.",
)
@click.option(
    "--fresh/--no-fresh",
    default=False,
    show_default=True,
    help="Whether a model takes part that is trained anew, each day, on all rows so far.",
)
@click.option(
    "--first",
    type=int,
    default=1,
    show_default=True,
    help="How many days the first model, which stays frozen, is trained on.",
)
@click.option(
    "--optimizer-state",
    type=click.Choice(["keep", "reset"]),
    default="keep",
    show_default=True,
    help="Whether a warm start goes on with the state of the optimizers, or begins it anew.",
)
@click.option("--keep", is_flag=True, help="Keep the runs of all days, not of the last one alone.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the backtest."
)
@click.option("--overwrite", is_flag=True, help="Start anew where OUT holds a backtest.")
@json_option
@debug_option
def command(
    spec: Path,
    overrides: tuple[str, ...],
    data: Path | None,
    by: str,
    warm: bool,
    fresh: bool,
    first: int,
    optimizer_state: Literal["keep", "reset"],
    keep: bool,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score each day with what was trained up to the day before, then train on it; and so on.

    The rows are those of data.train of SPEC. Every training is one of `recmtl train`, in OUT/runs;
    a call that was stopped goes on when it is repeated. The table is OUT/backtest.md, .html and
    .json. KEY=VALUE changes the spec of all days.
    """
    from recmtl.studies.backtest import backtest
    from recmtl.studies.backtest_pages import as_text

    summary = backtest(
        spec,
        by=by,
        data=data,
        out=out,
        warm=warm,
        fresh=fresh,
        first=first,
        optimizer_state=optimizer_state,
        overrides=overrides,
        keep=keep,
        overwrite=overwrite,
        progress=terminal_progress(),
        notify=lambda text: click.echo(text, err=True),
    )
    text = "\n".join([*as_text(summary), "", f"Next: open {out / 'backtest.html'}"])
    emit(summary, as_json=as_json, text=text)
