"""`recmtl train SPEC --out RUN [key=value ...]`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import INTERRUPTED, data_option, debug_option, emit, json_option
from recmtl.cli.eval import table

__all__ = ["command"]


@click.command("train")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--overwrite", is_flag=True, help="Train anew where OUT holds a run already.")
@click.option(
    "--warm-start",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A finished run whose model training goes on from: vocabularies grow, weights are its "
    "best ones.",
)
@click.option(
    "--optimizer-state",
    type=click.Choice(["keep", "reset"]),
    help="Of a warm start: go on with the state of its optimizers, or begin it anew  [default: "
    "keep]",
)
@json_option
@debug_option
def command(
    spec: Path,
    overrides: tuple[str, ...],
    data: Path | None,
    out: Path,
    overwrite: bool,
    warm_start: Path | None,
    optimizer_state: Literal["keep", "reset"] | None,
    as_json: bool,
) -> None:
    """Fit encoders and train the model that SPEC describes; the best checkpoint is kept in RUN.

    An interrupted run goes on where it stopped. KEY=VALUE changes the spec, for example tower=ple
    or train.lr=3e-4.
    """
    from recmtl import api
    from recmtl.training.failures import OtherRankError

    speaks = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0"
    try:
        result = api.train(
            spec,
            data=data,
            out=out,
            overrides=overrides,
            overwrite=overwrite,
            warm_start=warm_start,
            optimizer_state=optimizer_state,
            progress=terminal_progress(),
            notify=lambda text: click.echo(text, err=True),
        )
    except OtherRankError as error:  # torchrun: one process says it
        sys.exit(error.code)
    except KeyboardInterrupt:
        if speaks:
            raise
        sys.exit(INTERRUPTED)
    if not speaks:
        return
    lines = [f"{out}: {result.epochs} epochs, {result.rows_per_s:,.0f} rows/s", ""]
    lines += table(_by_task(result.best)) if result.best else ["no validation rows"]
    lines.append(f"\nNext: recmtl report {out}, recmtl score {out} --data LOG --out SCORES")
    emit({**asdict(result), "run": str(result.run)}, as_json=as_json, text="\n".join(lines))


def _by_task(best: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Metrics over all rows by task; the names are `valid/<task>/<metric>`, longer for segments."""
    tasks: dict[str, dict[str, float | None]] = {}
    for name, value in best.items():
        _, task, *metric = name.split("/")
        if len(metric) == 1:
            tasks.setdefault(task, {})[metric[0]] = value
    return tasks
