"""`recmtl tune SPEC --trials N --out DIR [key=value ...]`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import data_option, debug_option, emit, json_option

__all__ = ["command"]


@click.command("tune")
@click.argument("spec", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@data_option
@click.option(
    "--trials",
    type=int,
    default=30,
    show_default=True,
    help="How many there should be in the end; the first is SPEC as it stands.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search.")
@click.option(
    "--search",
    type=click.Path(path_type=Path),
    help="What to search: lines such as 'train.lr: {low: 1e-4, high: 1e-2, log: true}' or"
    " 'wide: {choices: [none, fm]}' (default: learning rates, the tables' prior and scale, the"
    " tower's dropout and sizes, wide).",
)
@click.option("--jobs", type=int, help="Trials at a time (default: what memory and cores allow).")
@click.option("--keep", is_flag=True, help="Keep the checkpoints of all trials, not of the best.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the search.")
@click.option("--overwrite", is_flag=True, help="Start anew where OUT holds a search.")
@json_option
@debug_option
def command(
    spec: Path,
    overrides: tuple[str, ...],
    data: Path | None,
    trials: int,
    seed: int,
    search: Path | None,
    jobs: int | None,
    keep: bool,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Better values of a spec's own keys, judged by train.monitor on the validation rows.

    Every trial is a run of `recmtl train`, in OUT/trials; a call that was stopped goes on when it
    is repeated, with more trials too. The best spec is OUT/spec.yaml, what was found OUT/tune.md,
    .html and .json. KEY=VALUE changes the spec of all trials; a key that is set so is not searched.
    """
    from recmtl.studies.compare import failure_code
    from recmtl.studies.tune import tune
    from recmtl.studies.tune_pages import as_text

    summary = tune(
        spec,
        data=data,
        out=out,
        trials=trials,
        seed=seed,
        search=search,
        jobs=jobs,
        overrides=overrides,
        keep=keep,
        overwrite=overwrite,
        progress=terminal_progress(),
        notify=lambda text: click.echo(text, err=True),
    )
    next_step = f"Next: open {out / 'tune.html'}. The best spec is {out / 'spec.yaml'}."
    emit(summary, as_json=as_json, text="\n".join([*as_text(summary), "", next_step]))
    if code := failure_code([failed for failed in summary["failed"] if failed["again"]]):
        click.get_current_context().exit(code)
