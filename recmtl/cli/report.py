"""`recmtl report RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from recmtl.cli.app import debug_option, emit, json_option

__all__ = ["command"]


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@debug_option
def command(run: Path, as_json: bool) -> None:
    """Write RUN/report.html: one self-contained page with metrics, curves and plots."""
    from recmtl.report import write_report

    path = write_report(run)
    emit({"path": str(path)}, as_json=as_json, text=str(path))
