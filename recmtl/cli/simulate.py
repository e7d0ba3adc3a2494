"""`recmtl simulate OUT`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--rows",
    type=int,
    default=400_000,
    show_default=True,
    help="Rows in all, at least 100, split 80/10/10.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the world and its log, at least 0.",
)
@click.option(
    "--users",
    type=int,
    default=5_000,
    show_default=True,
    help="Users of the world, at least 10.",
)
@click.option(
    "--items",
    type=int,
    default=2_000,
    show_default=True,
    help="Items of the world, at least 10.",
)
@click.option(
    "--signal",
    type=float,
    default=1.0,
    show_default=True,
    help="How much tastes, reactions to prices and the time of day count, 0 to 10; with 0 nothing "
    "but main effects is left.",
)
@click.option(
    "--days",
    type=int,
    help="Days of the log, which gets the column `day`  [default: 30, and no such column]",
)
@click.option(
    "--drift",
    type=float,
    default=0.0,
    show_default=True,
    help="Angle in radians by which tastes and biases of items turn in a day, 0 to pi / 2.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace another simulation, or write beside other files in OUT.",
)
@json_option
@debug_option
def command(
    out: Path,
    rows: int,
    seed: int,
    users: int,
    items: int,
    signal: float,
    days: int | None,
    drift: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a click funnel whose p_ctr and p_cvr are known, and its spec, to OUT."""
    from recmtl.simulate import simulate

    summary = asdict(
        simulate(
            out,
            rows=rows,
            seed=seed,
            users=users,
            items=items,
            signal=signal,
            days=days,
            drift=drift,
            overwrite=overwrite,
            progress=terminal_progress(),
        )
    )
    summary["spec"] = str(summary["spec"])
    lines = [f"{'':12}{'base rate':>10}{'Bayes AUC':>11}{'additive AUC':>14}"]
    for task, bayes in summary["bayes_auc"].items():
        additive, rate = summary["additive_auc"][task], summary["base_rates"][task]
        cells = (("-" if auc is None else f"{auc:.4f}") for auc in (bayes, additive))
        lines.append(f"{task:12}{rate:10.4f}" + "{:>11}{:>14}".format(*cells))
    lines.append(f"\nNext: recmtl train {summary['spec']} --out RUN")
    emit(summary, as_json=as_json, text="\n".join(lines))
