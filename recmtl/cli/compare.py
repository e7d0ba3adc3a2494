"""`recmtl compare SPEC --towers a,b --out DIR [key=value ...]`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import data_option, debug_option, emit, json_option

__all__ = ["command"]


@click.command("compare")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_option
@click.option(
    "--towers", default="", help="Kinds of towers, as mmoe,ple,home (default: that of SPEC)."
)
@click.option(
    "--objectives", default="", help="tasks,entire_space, or one of them (default: that of SPEC)."
)
@click.option("--seeds", type=int, default=3, show_default=True, help="Runs of each, from seed 0.")
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="Labelled rows to judge on (default: the validation rows, which chose checkpoints too).",
)
@click.option(
    "--baselines/--no-baselines",
    default=True,
    show_default=True,
    help="Whether single-task and additive models take part.",
)
@click.option("--jobs", type=int, help="Runs at a time (default: what memory and cores allow).")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the comparison."
)
@click.option("--overwrite", is_flag=True, help="Start anew where OUT holds a comparison.")
@json_option
@debug_option
def command(
    spec: Path,
    overrides: tuple[str, ...],
    data: Path | None,
    towers: str,
    objectives: str,
    seeds: int,
    test: Path | None,
    baselines: bool,
    jobs: int | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Towers side by side, over seeds, against baselines: which can be told apart, at what cost.

    Every run is one of `recmtl train`, in OUT/runs; a call that was stopped goes on when it is
    repeated. The table is OUT/compare.md, .html and .json. KEY=VALUE changes the spec of all, and
    tower.KEY=VALUE each tower that has the key.
    """
    from recmtl.studies.compare import compare, failure_code
    from recmtl.studies.pages import as_text

    summary = compare(
        spec,
        data=data,
        out=out,
        towers=_names(towers),
        objectives=_names(objectives),
        seeds=seeds,
        test=test,
        baselines=baselines,
        jobs=jobs,
        overrides=overrides,
        overwrite=overwrite,
        progress=terminal_progress(),
        notify=lambda text: click.echo(text, err=True),
    )
    text = "\n".join([*as_text(summary), "", f"Next: open {out / 'compare.html'}"])
    emit(summary, as_json=as_json, text=text)
    if code := failure_code(summary["failed"]):
        click.get_current_context().exit(code)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
