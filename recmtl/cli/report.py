"""`recmtl report RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl._progress import terminal_progress
from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the data (default: where it was in training).",
)
@click.option(
    "--analysis/--no-analysis",
    default=True,
    help="Whether to look at validation rows once more, for conflict between tasks and the"
    " importance of features (about a minute at most).",
)
@json_option
@debug_option
def command(run: Path, data: Path | None, analysis: bool, as_json: bool) -> None:
    """Write RUN/report.html: one self-contained page with metrics, curves, plots and what they say.

    `--json` prints the figures: what they say in sentences, the health of experts, conflict between
    tasks, and the importance of features.
    """
    from recmtl.report import make_report

    made = make_report(run, data=data, analysis=analysis, progress=terminal_progress())
    value = {
        "path": str(made.path),
        "insights": [insight._asdict() for insight in made.insights],
        "experts": made.summary.get("gates", []),
        "refinement": made.summary.get("refinement", {}),
        **made.analysis._asdict(),
    }
    sentences = [insight.sentence for insight in made.insights]
    lines = [*sentences, *([made.analysis.missing] if made.analysis.missing else [])]
    emit(value, as_json=as_json, text="\n".join([*lines, str(made.path)]))
